"""Users' events in another order: the same lists of fewer runs, each event once, wherever the stream is cut."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.dedup.runs import Int64
from dedup_storage.windows.anew import AnewGroup, AnewStream, leads_back
from dedup_storage.windows.order import Anew, Named, in_order

GROUP = AnewGroup("runs", "end", "anew", "moves")
RUNS = pa.list_(pa.struct([("start", pa.int64()), ("length", pa.int32())]))
# Of each user, of each request the positions that its list names; ``None`` where the list stands in the request.
Lists = list[list[list[int] | None]]


def as_runs(positions: list[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for position in positions:
        if found and position == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((position, 1))
    return found


def positions(runs: Any) -> list[int]:
    return [p for run in runs for p in range(run["start"], run["start"] + run["length"])]


def named(users: Lists) -> Named:
    rows = [(user, as_runs(listed)) for user, lists in enumerate(users) for listed in lists if listed]
    runs = [run for _, listed in rows for run in listed]
    return Named(
        _numbers(user for user, _ in rows), len(users), offsets_from_lengths([len(listed) for _, listed in rows]),
        _numbers(start for start, _ in runs), _numbers(length for _, length in runs),
    )  # fmt: skip


def _numbers(values: Iterable[int]) -> Int64:
    return np.array(list(values), dtype=np.int64)


def laid(users: Lists, share: float = 0.01, cuts: list[int] | None = None) -> list[dict[str, Any]]:
    """The stream's rows, of batches that end at ``cuts``."""
    rows = [
        {
            "u": user, "r": request, "end": 1 + max((p for x in lists for p in x or []), default=0),
            "runs": None if listed is None else [{"start": s, "length": n} for s, n in as_runs(listed)],
        }
        for user, lists in enumerate(users)
        for request, listed in enumerate(lists)
    ]  # fmt: skip
    schema = pa.schema([("u", pa.int64()), ("r", pa.int64()), ("end", pa.int64()), ("runs", RUNS)])
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    bounds = [0, *sorted(cuts or []), len(rows)]
    parts = [batch.slice(a, b - a) for a, b in pairwise(bounds)]
    return [row for part in AnewStream("u", [GROUP], share).lay(parts) for row in part.to_pylist()]


lists_of_users = st.lists(
    st.lists(st.none() | st.lists(st.integers(0, 12), max_size=8), min_size=1, max_size=6), min_size=1, max_size=5
)


@settings(deadline=None, max_examples=300)
@given(users=lists_of_users, share=st.sampled_from([0.01, 0.3, 0.5]), data=st.data())
def test_lists_are_the_same_of_fewer_runs(users: Lists, share: float, data: st.DataObject) -> None:
    count = sum(map(len, users))
    rows = laid(users, share)
    assert [(row["u"], row["r"]) for row in rows] == [
        (u, r) for u, lists in enumerate(users) for r in range(len(lists))
    ]
    copied: dict[int, dict[int, int]] = {}
    for row in rows:
        for move in row["moves"] or []:
            assert row["r"] == 0
            for at in range(move["size"]):
                assert (
                    copied.setdefault(row["u"], {}).setdefault(move["new"] + at, move["old"] + at) == move["old"] + at
                )
    for user, lists in enumerate(users):
        own, there = [row["anew"] for row in rows if row["u"] == user], copied.get(user, {})
        names = {p for listed in lists for p in listed or []}
        end = max(names, default=0) + 1
        if not there:
            assert own == [None] * len(lists)
            continue
        # Each event that is named once, behind all that there were, without a gap.
        assert sorted(there.values()) == sorted(names)
        assert sorted(there) == list(range(end, end + len(names)))
        before = sum(len(as_runs(listed)) for listed in lists if listed)
        assert before - sum(len(listed or []) for listed in own) >= share * before
        for listed, anew in zip(lists, own, strict=True):
            assert [there[p] for p in positions(anew or [])] == (listed or [])
            assert (anew is None) == (not listed)
    cuts = data.draw(st.lists(st.integers(0, count), max_size=3))
    assert laid(users, share, cuts) == rows


@settings(deadline=None, max_examples=200)
@given(users=lists_of_users)
def test_an_order_laid_anew_stays(users: Lists) -> None:
    found = named(users)
    once = in_order(found)
    again = in_order(Named(found.users, len(users), once.run_offsets, once.starts, once.lengths))
    assert len(again.starts) == len(once.starts)


@pytest.mark.parametrize("seed", range(5))
def test_lists_that_leave_events_out_of_one_order_give_it_back(seed: int) -> None:
    """Late, deleted, capped, in any order of the days: what is left are the gaps."""
    chosen = random.Random(seed)
    times = list(range(200))
    # Positions are those of the first appearance: of a log whose second half was written first.
    arrived = {t: t + (chosen.randint(1, 30) if chosen.random() < 0.2 else 0) for t in times}
    requests = [[t for t in times if arrived[t] < end][-chosen.randint(30, 50) :] for end in range(60, 200, 5)]
    seen = dict.fromkeys(t for listed in requests[14:] + requests[:14] for t in listed)
    position = {t: number for number, t in enumerate(seen)}
    lists = [[position[t] for t in listed] for listed in requests]
    anew = in_order(named([lists]))
    runs = [1 + sum(t not in listed for t in range(listed[0], listed[-1]) if t - 1 in listed) for listed in requests]
    assert np.diff(anew.run_offsets).sum() <= sum(runs) < sum(len(as_runs(listed)) for listed in lists) / 2


def test_what_no_order_helps_is_left() -> None:
    # An event twice in a list; gaps; nothing to gain.
    twice, gaps, plain = [[0, 1, 0, 1, 2]], [[0, 1, 2, 3, 4], [0, 2, 4, 5]], [[0, 1, 2], [1, 2, 3]]
    assert all(row["anew"] is None and row["moves"] is None for row in laid([twice, gaps, plain]))
    # One that has too much to hold at once; the next one is laid.
    late = [[0, 1, 3], [0, 1, 2, 3], [4, 5], [0, 4, 1, 5, 2, 3]]
    fits = in_order(named([late, [[1, 0]], late]), most_atoms=12).fits
    assert fits.tolist() == [False, True, False]
    assert in_order(named([late, [[1, 0]]]), most_atoms=40).fits.all()


def test_a_wrong_order_is_seen() -> None:
    found = named([[[0, 1, 4], [0, 1, 2, 3, 4]], [[2, 0, 1]]])
    anew = in_order(found)
    assert leads_back(found, anew)
    for name in ("starts", "lengths", "old", "new", "sizes"):
        for at in range(len(getattr(anew, name))):
            values = {field: getattr(anew, field).copy() for field in Anew.__dataclass_fields__}
            values[name][at] += 1
            assert not leads_back(found, Anew(**values)), (name, at)


def test_broken_runs_are_left_to_check() -> None:
    batch = pa.RecordBatch.from_pylist(
        [
            {"u": 1, "end": 9, "runs": [{"start": None, "length": 2}, {"start": 3, "length": 1}]},
            {"u": 2, "end": 9, "runs": [{"start": 0, "length": 0}]},
            {"u": 3, "end": None, "runs": [{"start": 4, "length": 1}, {"start": 1, "length": 1}]},
            {"u": 4, "end": 9, "runs": [{"start": 4, "length": 1}, {"start": 1, "length": 1}]},
        ],
        schema=pa.schema([("u", pa.int64()), ("end", pa.int64()), ("runs", RUNS)]),
    )
    rows = [row for part in AnewStream("u", [GROUP], 0.5).lay([batch]) for row in part.to_pylist()]
    assert [row["anew"] for row in rows] == [None, None, None, [{"start": 9, "length": 2}]]
