"""The events of users' histories. Pure NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dedup_storage.synth.items import catalogue
from dedup_storage.synth.params import SECOND_US, History, SynthParams
from dedup_storage.synth.philox import Stream, uniform, words
from dedup_storage.synth.population import Floats, Ints, population, request_time

__all__ = ["history_bounds", "history_events"]

_MOST_EVENT_GAP_US = 3_600 * SECOND_US


def history_bounds(params: SynthParams, user: Ints, ordinal: Ints) -> tuple[Ints, Ints]:
    """Which events of the user a request sees: [start, stop), at most ``sequence_length``."""
    known = np.where(population(params).cold[user], 0, params.sequence_length)
    stop = known + ordinal * params.new_events_per_request
    return np.maximum(stop - params.sequence_length, 0), stop


def history_events(params: SynthParams, user: Ints, event: Ints) -> dict[History, NDArray[np.generic]]:
    """Events of users' histories, each a pure function of (seed, user, event).

    Args:
        params: The log.
        user: (events,) user numbers.
        event: (events,) event numbers within the user, oldest first; none later than the user's last request.

    Returns:
        For each list of ``params.history`` its elements: item ids int64, times int64 (microseconds since 1970-01-01,
        whole seconds, never decreasing in ``event``), actions int32 in [0, 4).
    """
    item, moment, action, _ = words(params.seed, Stream.EVENT, user, 0, event)
    made: dict[History, NDArray[np.generic]] = {}
    if History.ITEMS in params.history:
        goods = catalogue(params)
        made[History.ITEMS] = goods.ids[goods.draw(uniform(item))]
    if History.TIMES in params.history:
        made[History.TIMES] = _event_times(params, user, event, uniform(moment))
    if History.ACTIONS in params.history:
        # Views far outnumber clicks, carts and purchases.
        made[History.ACTIONS] = np.searchsorted([0.8, 0.95, 0.99], uniform(action)).astype(np.int32)
    return {name: made[name] for name in params.history}


def _event_times(params: SynthParams, user: Ints, event: Ints, place: Floats) -> Ints:
    """New events lie between the requests that do not and do see them, older ones before the first request."""
    people = population(params)
    since = event - np.where(people.cold[user], 0, params.sequence_length)
    slide = max(params.new_events_per_request, 1)
    times = np.empty(len(event), dtype=np.int64)
    old = since < 0
    gap = np.minimum(people.interval_us[user[old]] // slide, _MOST_EVENT_GAP_US)
    age = ((-since[old] - place[old]) * gap).astype(np.int64)
    times[old] = request_time(params, user[old], np.zeros_like(gap)) - age
    new = ~old
    before, part = np.divmod(since[new], slide)
    begin, end = request_time(params, user[new], before), request_time(params, user[new], before + 1)
    times[new] = begin + ((part + place[new]) / slide * (end - begin)).astype(np.int64)
    return times // SECOND_US * SECOND_US
