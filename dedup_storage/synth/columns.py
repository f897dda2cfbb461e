"""The columns of a synthetic log as Arrow arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dedup_storage.synth.history import history_bounds, history_events
from dedup_storage.synth.items import Candidates, catalogue
from dedup_storage.synth.params import SECOND_US, History, SynthParams
from dedup_storage.synth.population import Ints, Requests, population, ragged_arange

__all__ = ["LISTS", "TIMESTAMP", "context", "impressions", "keys", "late_labels", "offsets", "take"]

TIMESTAMP = pa.timestamp("us", tz="UTC")
LISTS = {History.ITEMS: pa.int64(), History.TIMES: TIMESTAMP, History.ACTIONS: pa.int32()}
_COUNTRIES = pa.array(["DE", "US", "BR", "IN", "JP", None])
_COUNTRY_STEPS = np.array([0.4, 0.65, 0.8, 0.9, 0.95])
_DEVICES = pa.array(["phone", "desktop", "tablet", None])
_DEVICE_STEPS = np.array([0.7, 0.9, 0.98])
_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
# Odd, so that multiplying by it modulo 2**64 gives distinct users distinct ids.
_USER_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def take(columns: dict[str, pa.Array], rows: Ints) -> dict[str, pa.Array]:
    index = pa.array(rows)
    return {name: values.take(index) for name, values in columns.items()}


def offsets(lengths: Ints) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def keys(params: SynthParams, requests: Requests) -> dict[str, pa.Array]:
    if not params.string_ids:
        return {"user_id": pa.array(requests.user + 1), "request_id": pa.array(requests.request_id)}
    users = requests.user.astype(np.uint64) * _USER_SPREAD
    return {"user_id": _hex("u-", users), "request_id": _hex("r-", requests.request_id.astype(np.uint64))}


def _hex(prefix: str, values: NDArray[np.uint64]) -> pa.StringArray:
    """Sixteen hexadecimal digits behind a prefix; strings sort like the numbers."""
    shifts = np.arange(60, -1, -4, dtype=np.uint64)
    digits = _HEX[((values[:, None] >> shifts) & np.uint64(15)).astype(np.intp)]  # (rows, 16)
    head = np.broadcast_to(np.frombuffer(prefix.encode(), dtype=np.uint8), (len(values), len(prefix)))
    text = np.ascontiguousarray(np.hstack([head, digits]))
    ends = np.arange(len(values) + 1, dtype=np.int32) * text.shape[1]
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(text))


def context(params: SynthParams, requests: Requests) -> dict[str, pa.Array]:
    """Request-grain columns that are no keys."""
    country = np.searchsorted(_COUNTRY_STEPS, population(params).country[requests.user])
    device = np.searchsorted(_DEVICE_STEPS, requests.device)
    return {
        "request_time": pa.array(requests.time_us).cast(TIMESTAMP),
        "country": _COUNTRIES.take(pa.array(country)),
        "device": _DEVICES.take(pa.array(device)),
        **_histories(params, requests),
    }


def _histories(params: SynthParams, requests: Requests) -> dict[str, pa.Array]:
    """The windows of each request over the events of its user, every event made once."""
    if not params.history:
        return {}
    start, stop = history_bounds(params, requests.user, requests.ordinal)
    users, person = np.unique(requests.user, return_inverse=True)
    first = np.full(len(users), np.iinfo(np.int64).max)
    last = np.zeros(len(users), dtype=np.int64)
    np.minimum.at(first, person, start)
    np.maximum.at(last, person, stop)
    made = history_events(params, np.repeat(users, last - first), ragged_arange(first, last - first))
    before = np.cumsum(last - first) - (last - first)
    window = ragged_arange(before[person] + start - first[person], stop - start)
    ends = offsets(stop - start)
    return {
        name.value: pa.ListArray.from_arrays(ends, pa.array(values[window]).cast(LISTS[name]))
        for name, values in made.items()
    }


def impressions(params: SynthParams, made: Candidates) -> dict[str, pa.Array]:
    goods = catalogue(params)
    return {
        "item_id": pa.array(goods.ids[made.rank]),
        "price": pa.array(goods.prices[made.rank]),
        "label": pa.array(made.label, mask=made.late),
    }


def late_labels(params: SynthParams, requests: Requests, made: Candidates, rows: Ints) -> dict[str, pa.Array]:
    request = made.request[rows]
    time = (requests.time_us[request] + made.delay_us[rows]) // SECOND_US * SECOND_US
    return {
        **take(keys(params, requests), request),
        "item_id": pa.array(catalogue(params).ids[made.rank[rows]]),
        "label": pa.array(made.label[rows]),
        "label_time": pa.array(time).cast(TIMESTAMP),
    }
