"""How lists are kept: what pads them, which are times, which end is the newest. Pure Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.runs import Int64, single_chunk
from dedup_storage.forms import Order, Padding, Side
from dedup_storage.schema import TimeUnit
from dedup_storage.sources.forms.items import bools
from dedup_storage.sources.forms.lists import Bools, Lists

__all__ = ["FoundLists", "clearly_down", "look_at_lists", "plausible_unit", "time_numbers", "time_steps"]

_FIRST, _LAST = datetime(1990, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp()
# Times that go one way so many times as often as the other tell the order, though not without a doubt.
_CLEARLY = 10
_FILLS_NUMBERS = (0, -1)
_FILLS_TEXTS = ("", "0", "-1", "<pad>", "<PAD>", "PAD", "[PAD]")


@dataclass
class FoundLists:
    """What was found about lists.

    Attributes:
        padding: Column -> what pads it.
        order: Columns that are newest first.
        times: Column -> unit of its numbers; ``None`` for timestamps.
        unsure: What the rows leave open.
    """

    padding: dict[str, Padding] = field(default_factory=dict)
    order: dict[str, Order] = field(default_factory=dict)
    times: dict[str, TimeUnit | None] = field(default_factory=dict)
    unsure: list[str] = field(default_factory=list)


def plausible_unit(values: pa.Array) -> TimeUnit | None:
    """The unit in which all of these numbers are times between 1990 and 2100."""
    whole = pa.types.is_integer(values.type) or (
        pa.types.is_floating(values.type) and bool(pc.all(pc.equal(values, pc.floor(values)), min_count=0).as_py())
    )
    bounds = pc.min_max(values) if whole and len(values) > values.null_count else None
    if bounds is None:
        return None
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    return next((u for u in TimeUnit if _FIRST * u.per_second <= low and high < _LAST * u.per_second), None)


def look_at_lists(columns: Mapping[str, pa.ChunkedArray]) -> FoundLists:
    """Look at lists of scalars.

    Args:
        columns: Column -> lists, as they lie once texts are split.
    """
    found = FoundLists()
    lists = {name: Lists.of(single_chunk(column)) for name, column in columns.items()}
    kept: dict[str, Lists] = {}
    refused: list[str] = []
    for name, one in lists.items():
        padding, inside = _padding(one)
        if padding is not None:
            found.padding[name] = padding
            kept[name] = one.between(*one.filled(_padded(one.values, padding), left=padding.side is Side.LEFT))
        elif inside:
            refused.append(name)
    for name in refused:
        # Zeros are values here: the list is as long as another one that has its own padding.
        other = next((c for c, k in kept.items() if np.array_equal(lists[c].lengths, lists[name].lengths)), None)
        if other is not None:
            found.padding[name] = Padding(like=other, side=found.padding[other].side)
        else:
            found.unsure.append(f"{name} may be padded with 0, which also stands inside its lists")
    for name, one in lists.items():
        _look_at_times(name, kept.get(name, one), lists, found)
    return found


def _padding(lists: Lists) -> tuple[Padding | None, bool]:
    """What pads the lists, and whether something would, were it not inside them too."""
    inside = False
    # Padding fills lists up to one length.
    told = lists.lengths[~lists.missing]
    if len(told) < 2 or np.ptp(told):
        return None, False
    for value in _fills(lists.values.type):
        for side in Side:
            padding = Padding(value=value, side=side)
            padded = _padded(lists.values, padding)
            first, last = lists.filled(padded, left=side is Side.LEFT)
            removed = lists.lengths - (last - first)
            if not removed.any() or not (last - first).any():
                continue
            before = np.concatenate([[0], np.cumsum(padded)])
            if (before[last] > before[first]).any():
                inside = True
            else:
                return padding, False
    return None, inside


def _fills(kind: pa.DataType) -> tuple[object, ...]:
    if pa.types.is_floating(kind):
        return (None, "nan", *_FILLS_NUMBERS)
    if pa.types.is_integer(kind):
        return (None, *_FILLS_NUMBERS)
    return (None, *_FILLS_TEXTS) if pa.types.is_string(kind) else (None,)


def _padded(values: pa.Array, padding: Padding) -> Bools:
    if padding.value is None:
        return bools(pc.is_null(values))
    if padding.value == "nan" and pa.types.is_floating(values.type):
        return bools(pc.is_nan(values))
    return bools(pc.equal(values, pa.scalar(padding.value).cast(values.type)))


def time_numbers(values: pa.Array) -> tuple[TimeUnit | None, Int64] | None:
    """Times as numbers that can be compared, and their unit where they are numbers in the log; nothing if they are no
    times."""
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        unit, values = None, values.cast(pa.int64() if pa.types.is_timestamp(values.type) else pa.int32())
    else:
        unit = plausible_unit(values)
        if unit is None:
            return None
        values = values.cast(pa.int64())
    return unit, pc.fill_null(values, 0).to_numpy(zero_copy_only=False)


def time_steps(numbers: Int64, offsets: Int64) -> tuple[int, int]:
    """How often the times of all lists go up, and how often down, from an element to the next one of its list."""
    steps = np.sign(np.diff(numbers))
    # Steps from one row's list to the next one's are none.
    ends = offsets[1:-1]
    steps[ends[(ends > 0) & (ends < len(numbers))] - 1] = 0
    return int((steps > 0).sum()), int((steps < 0).sum())


def clearly_down(up: int, down: int) -> bool:
    """Whether so many steps up and down are those of lists that begin with the newest element."""
    return down > _CLEARLY * up


def _look_at_times(name: str, one: Lists, lists: Mapping[str, Lists], found: FoundLists) -> None:
    times = time_numbers(one.values)
    if times is None:
        return
    found.times[name] = times[0]
    up, down = time_steps(times[1], one.offsets)
    turned = clearly_down(up, down)
    if turned:
        together = [c for c, other in lists.items() if np.array_equal(other.lengths, lists[name].lengths)]
        found.order.update(dict.fromkeys(together, Order.NEWEST_FIRST))
    if up and down:
        taken = "newest first" if turned else "oldest first"
        found.unsure.append(
            f"the times of {name} go up {up:,} times and down {down:,} times: taken as {taken}, which order under "
            f"forms says of each list of a group"
        )
