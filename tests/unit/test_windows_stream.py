"""Users' lists and requests in a stream: lists come back bit for bit, wherever the stream is cut into batches."""

from __future__ import annotations

import importlib
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
        ("words", pa.list_(pa.string())), ("kind", pa.int32()), ("place", pa.int64()),
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
                rows.append((number, {**row, "place": None}))
    return rows


def bits(values: list[Any] | None) -> list[Any] | None:
    if values is None:
        return None
    return [struct.pack("<d", v) if isinstance(v, float) else v for v in values]


@pytest.mark.parametrize("dropped", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("seed", range(8))
def test_lists_come_back_whatever_the_batches(seed: int, dropped: float) -> None:
    """Of what is stored a share is dropped from day to day, each user's last event never: its place is no other's."""
    chosen = random.Random(seed)
    newest_first = bool(seed % 2)
    groups = [
        StreamGroup(("seen", "paid"), newest_first, "g_runs", "g_new"),
        StreamGroup(("words",), False, "w_runs", "w_new"),
    ]
    rows = logged(chosen, newest_first)
    stored: list[dict[str, dict[int, tuple[Any, ...]]]] = [{u: {} for u in USERS} for _ in groups]
    # What there ever was, and what each day's requests could refer to.
    ever: list[dict[str, dict[int, tuple[Any, ...]]]] = [{u: {} for u in USERS} for _ in groups]
    there: list[list[dict[str, set[int]]]] = []
    laid: dict[int, Row] = {}
    for number in range(3):
        for lists in (lists for group in stored for lists in group.values()):
            for place in [p for p in list(lists)[:-1] if chosen.random() < dropped]:
                del lists[place]
        stream: list[Row] = []
        for user in USERS:
            requests = [row for day, row in rows if day == number and row["u"] == user]
            for kind, group in enumerate(groups):
                left = dict(stored[kind][user])
                while requests and left:
                    first, most = next(iter(left)), chosen.choice([1, 5, 100])
                    piece = [left.pop(first)]
                    while len(piece) < most and first + len(piece) in left:
                        piece.append(left.pop(first + len(piece)))
                    lists = {c: [values[i] for values in piece] for i, c in enumerate(group.columns)}
                    stream.append({"u": user, "kind": kind, "place": first, **lists})
            stream += requests
        table = pa.Table.from_pylist(stream, schema=SCHEMA)
        batches = table.to_batches(max_chunksize=chosen.choice([1, 2, 3, 100]))
        for batch in UserStream("u", "kind", "place", groups).lay(iter(batches)):
            batch.validate(full=True)
            for row in batch.to_pylist():
                laid[row["r"]] = row
                for kind, group in enumerate(groups):
                    for event in row[group.new]:
                        place = event.pop("position")
                        assert place == len(ever[kind][row["u"]])
                        stored[kind][row["u"]][place] = ever[kind][row["u"]][place] = tuple(event.values())
        there.append([{u: set(events) for u, events in group.items()} for group in stored])
    assert len(laid) == len(rows)
    for number, row in rows:
        for kind, group in enumerate(groups):
            runs = laid[row["r"]][group.runs]
            for i, column in enumerate(group.columns):
                found = laid[row["r"]][column]
                if runs is not None:
                    assert found is None
                    events = ever[kind][row["u"]]
                    places = [run["start"] + n for run in runs for n in range(run["length"])]
                    assert there[number][kind][row["u"]].issuperset(places)
                    found = [events[place][i] for place in places]
                    found = found[::-1] if group.newest_first else found
                assert bits(found) == bits(row[column])


@pytest.mark.parametrize("places", [[0, 0], [-1], [0, 1, 1, 3], [1, 1, 1], [0, None], [1, 0]])
def test_stored_events_that_another_tool_changed_are_refused(places: list[int | None]) -> None:
    """New events would take positions that are taken; the second user's list is whole, in two rows."""
    stream: list[Row] = [
        {"u": "a", "kind": 0, "place": 0, "words": ["x", "y"]},
        {"u": "a", "kind": 0, "place": 2, "words": ["x"]},
        *({"u": "b", "kind": 0, "place": place, "words": ["w"]} for place in places),
        {"u": "b", "r": 1, "kind": 1, "words": ["z"]},
    ]
    table = pa.Table.from_pylist(stream, schema=SCHEMA)
    for size in (1, 100):
        batches = table.to_batches(max_chunksize=size)
        laid = UserStream("u", "kind", "place", [StreamGroup(("words",), False, "w_runs", "w_new")]).lay(iter(batches))
        with pytest.raises(StorageError, match="behind what is there before in a user's list of words"):
            list(laid)


@pytest.mark.parametrize("broken", ["position", "runs", "value", "start", "length"])
def test_what_is_handed_on_is_proved(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof reads what goes on to the tables, not what was matched: one wrong number there is found."""
    module = importlib.import_module("dedup_storage.windows.stream")
    made = module._handed_on

    def wrong(group: StreamGroup, *rest: Any) -> dict[str, pa.Array]:
        found = dict(made(group, *rest))
        runs, new = found[group.runs].to_pylist(), found[group.new].to_pylist()
        if broken == "runs":
            runs[2] = runs[1]
        elif broken == "position":
            new[1][0]["position"] += 1
        elif broken == "value":
            new[1][0]["v0"] = "x"
        elif runs[1] is not None:
            runs[1][0][broken] -= 1
        found[group.new] = pa.array(new, found[group.new].type)
        found[group.runs] = pa.array(runs, found[group.runs].type)
        return found

    words = [["a", "b", "c"], ["b", "c", "d"], None]
    table = pa.Table.from_pylist(
        [{"u": "a", "r": n, "kind": 1, "words": w} for n, w in enumerate(words)], schema=SCHEMA
    )
    stream = UserStream("u", "kind", "place", [StreamGroup(("words",), False, "w_runs", "w_new")])
    monkeypatch.setattr(module, "_handed_on", wrong)
    if broken in ("position", "runs"):
        with pytest.raises(StorageError, match=r"do not follow those|and no lists"):
            list(stream.lay(table.to_batches()))
    else:
        # The list that would not come back stays a list.
        (batch,) = stream.lay(table.to_batches())
        assert batch["w_runs"].to_pylist() == [[{"start": 0, "length": 3}], None, None]
        assert batch["words"].to_pylist() == [None, words[1], None]
