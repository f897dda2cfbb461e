"""Positions of events in lists with gaps, against a plain list of positions a user."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.windows.model import Memory, Windows
from dedup_storage.windows.places import Places


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def pieces(lists: list[list[int]], chosen: random.Random) -> Places:
    """The places of lists, in rows that may end where no gap is."""
    rows = []
    for user, positions in enumerate(lists):
        for before, place in zip([-9, *positions], positions, strict=False):
            if place == before + 1 and chosen.random() < 0.7:
                rows[-1][2] += 1
            else:
                rows.append([user, place, 1])
    owners, first, lengths = (ints(list(part)) for part in zip(*rows, strict=True)) if rows else [ints([])] * 3
    places, wrong = Places.of(len(lists), owners, first, lengths)
    assert wrong == 0
    return places


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_cut_at_gaps_and_found_again(seed: int) -> None:
    chosen = random.Random(seed)
    share = chosen.choice([0.3, 0.8, 1.0])
    lists = [[p for p in range(chosen.randint(0, 12)) if chosen.random() < share] for _ in range(5)]
    places = pieces(lists, chosen)
    ends = [positions[-1] + 1 if positions else 0 for positions in lists]
    assert places.ends.tolist() == ends
    assert places.whole == all(positions == list(range(len(positions))) for positions in lists)
    new = 3
    numbered = [[*positions, *range(end, end + new)] for positions, end in zip(lists, ends, strict=True)]

    users, runs, wanted = [], [], []
    for user in sorted(chosen.choices(range(5), k=9)):
        here = []
        for _ in range(chosen.randint(0, 3)):
            start = chosen.randrange(len(numbered[user]))
            here.append((start, chosen.randint(1, len(numbered[user]) - start)))
        users.append(user)
        runs.append(here)
        wanted.append([numbered[user][n] for start, length in here for n in range(start, start + length)])
    flat = [run for here in runs for run in here]
    windows = Windows(
        offsets_from_lengths([len(here) for here in runs]), ints([s for s, _ in flat]), ints([n for _, n in flat]),
        np.zeros(len(users), dtype=np.bool_), ints([0] * 6), ints([]), Memory.none(5),
    )  # fmt: skip
    cut = places.cut(windows, ints(users))
    owners = np.repeat(ints(users), cut.runs)
    starts = places.position(owners, cut.starts)
    bounds = cut.run_offsets.tolist()
    for number, positions in enumerate(wanted):
        part = range(bounds[number], bounds[number + 1])
        assert [int(starts[r]) + n for r in part for n in range(int(cut.lengths[r]))] == positions
    assert places.number(owners, starts, cut.lengths).tolist() == cut.starts.tolist()
    # A run with a position that is not there has no number.
    for user, positions in enumerate(lists):
        for missing in set(range(ends[user])) - set(positions):
            assert places.number(ints([user]), ints([missing]), ints([1])).tolist() == [-1]
            if missing and missing - 1 in positions:
                assert places.number(ints([user]), ints([missing - 1]), ints([2])).tolist() == [-1]
    last = places.last_user(new)
    assert last.ends.tolist() == [ends[-1] + new]
    assert last.position(ints([0] * len(numbered[-1])), np.arange(len(numbered[-1]))).tolist() == numbered[-1]
