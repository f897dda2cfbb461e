"""Users' lists and requests in a stream: lists come back bit for bit, wherever the stream is cut into batches."""

from __future__ import annotations

import random
import struct
from typing import Any

import pyarrow as pa
import pytest

from dedup_storage.errors import StorageError
from dedup_storage.windows.stream import StreamGroup, UserStream

PRICES = [0.0, -0.0, float("nan"), struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000123))[0], 1.5, None]
SCHEMA = pa.schema(
    [
        ("u", pa.string()), ("r", pa.int64()), ("seen", pa.list_(pa.int32())), ("paid", pa.list_(pa.float64())),
        ("words", pa.list_(pa.string())), ("kind", pa.int32()), ("places", pa.list_(pa.int64())),
    ]
)  # fmt: skip
USERS = ["a", "b", "c", "d"]
Row = dict[str, Any]


def logged(chosen: random.Random, newest_first: bool) -> list[tuple[int, Row]]:
    """(day, request row) of histories that slide, with gaps, late events, nulls and unequal lengths."""
    rows: list[tuple[int, Row]] = []
    histories: dict[str, list[tuple[int | None, float | None]]] = {u: [] for u in USERS}
    for number in range(3):
        for user in USERS:
            events = histories[user]
            for _ in range(chosen.randint(0, 5)):
                events += [(chosen.choice([1, 2, 3, None]), chosen.choice(PRICES)) for _ in range(chosen.randint(0, 4))]
                odd = chosen.random()
                if odd < 0.1 and events:
                    del events[chosen.randrange(len(events))]
                listed = events[-chosen.choice([3, 9, 9]) :][:: -1 if newest_first else 1]
                seen: Any = [e[0] for e in listed]
                paid: Any = [e[1] for e in listed]
                if 0.1 < odd < 0.2:
                    seen = None
                elif 0.2 < odd < 0.25:
                    seen = seen[1:]
                words = [chosen.choice(["x", "", None]) for _ in range(chosen.randint(0, 4))]
                row = {"u": user, "r": len(rows), "seen": seen, "paid": paid, "words": words, "kind": 2}
                rows.append((number, {**row, "places": None}))
    return rows


def bits(values: list[Any] | None) -> list[Any] | None:
    if values is None:
        return None
    return [struct.pack("<d", v) if isinstance(v, float) else v for v in values]


@pytest.mark.parametrize("seed", range(8))
def test_lists_come_back_whatever_the_batches(seed: int) -> None:
    chosen = random.Random(seed)
    newest_first = bool(seed % 2)
    groups = [
        StreamGroup(("seen", "paid"), newest_first, "g_runs", "g_new"),
        StreamGroup(("words",), False, "w_runs", "w_new"),
    ]
    rows = logged(chosen, newest_first)
    stored: list[dict[str, dict[int, tuple[Any, ...]]]] = [{u: {} for u in USERS} for _ in groups]
    laid: dict[int, Row] = {}
    for number in range(3):
        stream: list[Row] = []
        for user in USERS:
            requests = [row for day, row in rows if day == number and row["u"] == user]
            for kind, group in enumerate(groups):
                events = list(stored[kind][user].items())
                chosen.shuffle(events)
                if requests and events:
                    lists = {c: [values[i] for _, values in events] for i, c in enumerate(group.columns)}
                    stream.append({"u": user, "kind": kind, "places": [place for place, _ in events], **lists})
            stream += requests
        table = pa.Table.from_pylist(stream, schema=SCHEMA)
        batches = table.to_batches(max_chunksize=chosen.choice([1, 2, 3, 100]))
        for batch in UserStream("u", "kind", "places", groups).lay(iter(batches)):
            batch.validate(full=True)
            for row in batch.to_pylist():
                laid[row["r"]] = row
                for kind, group in enumerate(groups):
                    for event in row[group.new]:
                        place = event.pop("position")
                        assert place == len(stored[kind][row["u"]])
                        stored[kind][row["u"]][place] = tuple(event.values())
    assert len(laid) == len(rows)
    for _, row in rows:
        for kind, group in enumerate(groups):
            runs = laid[row["r"]][group.runs]
            for i, column in enumerate(group.columns):
                found = laid[row["r"]][column]
                if runs is not None:
                    assert found is None
                    events = stored[kind][row["u"]]
                    found = [events[run["start"] + n][i] for run in runs for n in range(run["length"])]
                    found = found[::-1] if group.newest_first else found
                assert bits(found) == bits(row[column])


@pytest.mark.parametrize("places", [[5, 6, 7], [0, 2], [0, 1, 1, 3], [1, 1, 1], [0, None]])
def test_stored_events_that_another_tool_changed_are_refused(places: list[int | None]) -> None:
    """New events would take positions that are taken; the second user's list is whole, and out of order."""
    words = [None] * len(places)
    stream = [
        {"u": "a", "kind": 0, "places": [1, 0], "words": ["x", "y"]},
        {"u": "b", "kind": 0, "places": places, "words": words},
        {"u": "b", "r": 1, "kind": 1, "words": ["z"]},
    ]
    table = pa.Table.from_pylist(stream, schema=SCHEMA)
    for size in (1, 100):
        batches = table.to_batches(max_chunksize=size)
        laid = UserStream("u", "kind", "places", [StreamGroup(("words",), False, "w_runs", "w_new")]).lay(iter(batches))
        with pytest.raises(StorageError, match="next in a user's list of words"):
            list(laid)
