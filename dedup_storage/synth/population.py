"""The users and requests of a synthetic log. Pure NumPy.

Every array is a function of the parameters and of the users and requests asked for, never of what was made before.
Users and requests are numbered from 0 here; ``tables`` turns them into ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dedup_storage.synth.params import Distribution, SynthParams
from dedup_storage.synth.philox import Stream, uniform, words

__all__ = [
    "Floats",
    "Ints",
    "Population",
    "Requests",
    "population",
    "ragged_arange",
    "request_time",
    "requests_between",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_MS_US = 1_000
# Requests of a user fall in the first nine tenths of equal intervals, so that two never coincide.
_JITTER = 0.9
_REQUEST_ID_BITS = 20


@dataclass(frozen=True)
class Population:
    """The users.

    Attributes:
        requests: (users,) requests of each.
        offsets: (users + 1,) number of requests of all users before.
        interval_us: (users,) length of the equal intervals that hold one request each.
        hot, cold: (users,) bool.
        click_rate: (users,) expected label.
        country: (users,) uniform draw in (0, 1).
    """

    requests: Ints
    offsets: Ints
    interval_us: Ints
    hot: NDArray[np.bool_]
    cold: NDArray[np.bool_]
    click_rate: Floats
    country: Floats


@dataclass(frozen=True)
class Requests:
    """Some requests, parallel arrays of (requests,).

    Attributes:
        user: User number.
        ordinal: Request number within the user, oldest first.
        time_us: Microseconds since 1970-01-01, whole milliseconds.
        request_id: Grows with time; unique within a user.
        candidates: Number of candidates.
        device: Uniform draw in (0, 1).
    """

    user: Ints
    ordinal: Ints
    time_us: Ints
    request_id: Ints
    candidates: Ints
    device: Floats

    def take(self, rows: Ints | NDArray[np.bool_] | slice) -> Requests:
        """The chosen requests, in the chosen order."""
        return Requests(**{name: values[rows] for name, values in vars(self).items()})

    def __len__(self) -> int:
        return len(self.user)


def ragged_arange(starts: Ints, lengths: Ints) -> Ints:
    """Concatenated ranges. Example: starts [3, 9], lengths [2, 1] -> [3, 4, 9]"""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()), dtype=np.int64)


def _marked(order: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """An exact share of the users, chosen by their draws."""
    marked = np.zeros(len(order), dtype=bool)
    marked[np.argsort(order, kind="stable")[: round(share * len(order))]] = True
    return marked


def _counts(quantile: Floats, mean: int, distribution: Distribution, most: int | None = None) -> Ints:
    if distribution is Distribution.FIXED or mean == 1:
        return np.full(len(quantile), mean, dtype=np.int64)
    counts = 1 + np.floor(np.log(quantile) / np.log1p(-1 / mean)).astype(np.int64)
    return counts if most is None else np.minimum(counts, most)


@lru_cache(maxsize=8)
def population(params: SynthParams) -> Population:
    """The users of a log."""
    users = np.arange(params.users)
    hot_order, country, rate, cold_order = words(params.seed, Stream.USER, users)
    activity, _, _, _ = words(params.seed, Stream.ACTIVITY, users)
    hot = _marked(hot_order, params.hot_users)
    requests = _counts(uniform(activity), params.requests_per_user, params.requests_distribution)
    requests *= np.where(hot, params.hot_factor, 1)
    return Population(
        requests=requests,
        offsets=np.concatenate([[0], np.cumsum(requests)]),
        interval_us=params.duration_us // requests // _MS_US * _MS_US,
        hot=hot,
        cold=_marked(cold_order, params.cold_users),
        click_rate=params.click_rate * (0.5 + uniform(rate)),
        country=uniform(country),
    )


def request_time(params: SynthParams, user: Ints, ordinal: Ints) -> Ints:
    """When requests were made, microseconds since 1970-01-01, whole milliseconds."""
    interval = population(params).interval_us[user]
    place = uniform(words(params.seed, Stream.REQUEST, user, ordinal)[0])
    jitter = np.floor(interval * _JITTER * place).astype(np.int64) // _MS_US * _MS_US
    time: Ints = params.start_us + ordinal * interval + jitter
    return time


def requests_between(params: SynthParams, begin_us: int, end_us: int) -> Requests:
    """The requests of one stretch of time, by time, then user.

    Args:
        params: The log.
        begin_us: Microseconds since ``params.start``, inclusive.
        end_us: Exclusive.
    """
    people = population(params)
    first = np.minimum(begin_us // people.interval_us, people.requests)
    last = np.minimum((end_us - 1) // people.interval_us + 1, people.requests)
    user = np.repeat(np.arange(params.users, dtype=np.int64), last - first)
    ordinal = ragged_arange(first, last - first)
    time = request_time(params, user, ordinal)
    inside = (time >= params.start_us + begin_us) & (time < params.start_us + end_us)
    user, ordinal, time = user[inside], ordinal[inside], time[inside]
    order = np.lexsort((ordinal, user, time))
    user, ordinal, time = user[order], ordinal[order], time[order]
    _, device, count, _ = words(params.seed, Stream.REQUEST, user, ordinal)
    low = (people.offsets[user] + ordinal) & ((1 << _REQUEST_ID_BITS) - 1)
    return Requests(
        user=user,
        ordinal=ordinal,
        time_us=time,
        request_id=((time - params.start_us) // _MS_US << _REQUEST_ID_BITS) | low,
        candidates=_counts(
            uniform(count), params.candidates_per_request, params.candidates_distribution, params.most_candidates
        ),
        device=uniform(device),
    )
