"""The histories of a draw as the user grain takes them: group by group, user by user, oldest request first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup import gather
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.hashing import Hashes
from dedup_storage.dedup.runs import Int64
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.schema import LogSchema, TimeUnit
from dedup_storage.windows import Lists
from dedup_storage.windows.model import Bools

__all__ = ["History", "days", "histories", "request_histories", "sequence_groups", "user_time_order"]

_SECONDS = 86_400
# 1990 and 2100, in seconds: between them no number fits two units.
_FIRST, _LAST = 631_152_000, 4_102_444_800


@dataclass(frozen=True)
class History:
    """One sequence group of a draw.

    Attributes:
        name: The group's name; the column's where it has none.
        lists: Of all requests, in the order of ``user_time_order``, as they were logged.
        missing: Column -> (requests,) bool, lists that are null.
    """

    name: str
    lists: Lists
    missing: Mapping[str, Bools]

    @property
    def columns(self) -> tuple[str, ...]:
        """The group's columns: what tells groups apart, since a group may be named as another's column is."""
        return tuple(self.lists.columns)


def user_time_order(draw: LogDraw) -> Int64:
    """Request rows by user, then event time, then arrival. (num_requests,) int64.

    Where event times are texts of a pattern, arrival stands for them; where there are none, the request key.
    """
    if draw.schema.event_time is None:
        return np.argsort(draw.users, kind="stable").astype(np.int64)
    position = np.empty(draw.num_impressions, dtype=np.int64)
    position[draw.arrival] = np.arange(draw.num_impressions)
    # A request arrives with the first of its impressions.
    arrived = np.full(draw.num_requests, draw.num_impressions, dtype=np.int64)
    np.minimum.at(arrived, draw.inverse, position)
    times: pa.ChunkedArray | None = draw.requests[draw.schema.event_time]
    if _is_text(draw.requests[draw.schema.event_time].type):
        times = _from_text(draw.requests[draw.schema.event_time])
    if times is None:
        return np.lexsort((arrived, draw.users)).astype(np.int64)
    ranks = pc.rank(times, sort_keys="ascending", tiebreaker="dense").to_numpy(zero_copy_only=False)
    return np.lexsort((arrived, ranks, draw.users)).astype(np.int64)


def histories(draw: LogDraw, order: Int64) -> list[History]:
    """The sequence groups of some requests.

    Columns of one group are taken apart where their lists differ in length.

    Args:
        draw: Rows of whole users.
        order: (n,) request rows, users together.
    """
    return request_histories(draw.schema, draw.requests, draw.users, order)


def sequence_groups(schema: LogSchema) -> dict[str, list[str]]:
    """Group -> its list columns, which run in parallel; a column without a group has one of its own, under no name."""
    groups: dict[str, list[str]] = {}
    for sequence in schema.sequences:
        groups.setdefault(sequence.group or f"\0{sequence.column}", []).append(sequence.column)
    return groups


def request_histories(schema: LogSchema, requests: pa.Table, users: Hashes, order: Int64) -> list[History]:
    """The sequence groups of request rows; see ``histories``.

    Args:
        schema: Names the sequences.
        requests: (num_requests,) rows with the list columns.
        users: (num_requests,) hash of each request's user.
        order: (n,) rows to take, users together.
    """
    users = users[order]
    changes = np.ones(len(order), dtype=np.int64)
    changes[1:] = users[1:] != users[:-1]
    numbers = np.cumsum(changes) - 1
    found = []
    for group, members in sequence_groups(schema).items():
        arrays = {name: gather(requests[name], order) for name in members}
        parts = {name: list_parts(array) for name, array in arrays.items()}
        first = parts[members[0]][1]
        parallel = all(np.array_equal(offsets, first) for _, offsets in parts.values())
        for batch in [members] if parallel else [[m] for m in members]:
            columns = {name: parts[name][0] for name in batch}
            lists = Lists(numbers, int(changes.sum()), parts[batch[0]][1], columns)
            missing = {name: arrays[name].is_null().to_numpy(zero_copy_only=False) for name in batch}
            title = group if parallel and not group.startswith("\0") else batch[0]
            found.append(History(title, lists, missing))
    return found


def days(times: pa.ChunkedArray, schema: LogSchema) -> pa.Array | None:
    """The UTC date of each event time, or ``None`` where they are texts of a pattern, or numbers of no known unit.

    Args:
        times: (n,) the column of event times as it lies in the files.
        schema: Says the unit of numbers.
    """
    kind = times.type
    if pa.types.is_integer(kind):
        times = _seconds(times, schema.time_unit)
    elif _is_text(kind):
        times = _from_text(times)
    elif not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return None
    if times is None:
        return None
    if pa.types.is_timestamp(times.type) and times.type.tz is not None:
        # Arrow takes the date in the zone of the type.
        times = times.cast(pa.timestamp(times.type.unit, "UTC"))
    return times.cast(pa.date32(), safe=False).combine_chunks()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _seconds(times: pa.ChunkedArray, told: str | None) -> pa.ChunkedArray | None:
    bounds = pc.min_max(times)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    if low is None:
        return None
    units = [u for u in TimeUnit if u.value == told] if told else list(TimeUnit)
    for unit in units:
        factor = unit.per_second
        if told or (_FIRST * factor <= low and high < _LAST * factor):
            whole = np.floor_divide(times.fill_null(0).to_numpy().astype(np.int64), factor)
            mask = times.is_null().to_numpy()
            return pa.chunked_array([pa.array(whole, mask=mask).cast(pa.timestamp("s"))])
    return None


def _from_text(times: pa.ChunkedArray) -> pa.ChunkedArray | None:
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return times.cast(kind)
        except pa.ArrowInvalid:
            continue
    return None
