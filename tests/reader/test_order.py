"""Behaviours 1 to 6, 16 to 18, 27 and 28: order, sharding, epochs, the ends of an epoch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from itertools import islice, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dedup_storage.errors import ConfigError
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupDataset, Ends
from dedup_storage.reader.decode.split import SplitReader
from dedup_storage.reader.decode.unit_reader import Decoded, UnitReader
from dedup_storage.reader.order import EpochOrder, OrderOptions, UnitSizes, greedy_bounds
from tests.reader.lake import Lake, Log, make_log
from tests.reader.reading import content, deliver, interleave, requests_of

Opener = Callable[..., DedupDataset]


@pytest.fixture(scope="module")
def log() -> Log:
    return make_log(users=40, requests_per_user=6, days=1)


@pytest.fixture(scope="module")
def opened(lake: Lake, log: Log) -> Opener:
    lake.standing("order_tests", log, buckets=16, files=1, cut="requests")

    def open_dataset(**options: object) -> DedupDataset:
        values: dict[str, object] = {"batch_size": 20, "columns": ["item_id"], "splits": 16, **options}
        return DedupDataset("order_tests", lake.settings, **values)  # type: ignore[arg-type]

    return open_dataset


def all_requests(log: Log) -> list[tuple[int, int]]:
    return sorted(zip(log.requests["user_id"].to_pylist(), log.requests["request_id"].to_pylist(), strict=True))


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 2), (3, 1), (4, 2)])
def test_01_union_over_ranks_and_workers_is_every_request_once(
    opened: Opener, log: Log, world: int, workers: int
) -> None:
    found = [deliver(opened(rank=r, world_size=world, ends="uneven"), workers) for r in range(world)]
    assert sorted(key for rank in found for key in requests_of(rank)) == all_requests(log)


def test_02_no_request_is_split(opened: Opener, log: Log) -> None:
    counts = dict.fromkeys(all_requests(log), 0)
    for row in log.impressions.select(["user_id", "request_id"]).to_pylist():
        counts[row["user_id"], row["request_id"]] += 1
    for batch in opened():
        keys = content(batch)[1]
        assert batch.lengths.tolist() == [counts[k] for k in keys]


def test_02_requests_are_whole_when_their_rows_lie_in_several_files(lake: Lake, name: str) -> None:
    log = make_log()
    for layout in Layout:
        dataset = f"{name}_{layout.value}"
        lake.write(dataset, log, layout=layout, files=3, cut="rows")
        for batch in DedupDataset(dataset, lake.settings, batch_size=1):
            assert batch.num_requests == 1
            position = batch["position"].values.tolist()
            assert position == list(range(len(position)))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_03_same_global_batches_for_any_world_size(opened: Opener, world: int) -> None:
    alone = deliver(opened())
    ranks = [deliver(opened(rank=r, world_size=world, ends="uneven")) for r in range(world)]
    assert interleave(ranks) == alone


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_04_same_batches_for_any_worker_count(opened: Opener, workers: int) -> None:
    assert deliver(opened(), workers) == deliver(opened())


def test_04_same_batches_for_any_number_of_threads(opened: Opener) -> None:
    alone = deliver(opened(prefetch=0))
    assert deliver(opened(threads=1)) == alone
    assert deliver(opened(threads=4, buffer_bytes=512 << 20)) == alone


def test_05_epochs_and_seeds_differ_and_the_same_seed_repeats(opened: Opener) -> None:
    dataset = opened(seed=1)
    first, again = deliver(dataset), deliver(dataset)
    dataset.set_epoch(1)
    second = deliver(dataset)
    other = deliver(opened(seed=2))
    assert first == again
    assert requests_of(first) != requests_of(second)
    assert requests_of(first) != requests_of(other)
    assert sorted(requests_of(first)) == sorted(requests_of(second)) == sorted(requests_of(other))


def test_05_without_shuffle_and_with_one_split_the_order_is_the_stored_one(lake: Lake, name: str) -> None:
    lake.write(name, make_log(days=1), buckets=1)
    dataset = DedupDataset(name, lake.settings, batch_size=10, shuffle=False, splits=1)
    found = requests_of(deliver(dataset))
    assert found == sorted(found)


def golden_order(seed: int, epoch: int) -> EpochOrder:
    sizes = [UnitSizes(np.full(n, 2, dtype=np.int32), np.full(n, 2, dtype=np.int64), 8.0, 4.0) for n in (5, 3, 4, 2)]
    options = OrderOptions(batch_size=4, splits=2, shuffle=True, seed=seed, buffer_bytes=1 << 20, mix=2)
    return EpochOrder(sizes, options, epoch)


def test_06_a_golden_order_survives_releases() -> None:
    order = golden_order(7, 3)
    blocks = [[[(b.unit, b.start, b.stop) for b in w] for w in s.windows] for s in order.splits]
    permutations = [[s.permutation(w).tolist() for w in range(len(s.windows))] for s in order.splits]
    assert blocks == GOLDEN_BLOCKS
    assert permutations == GOLDEN_PERMUTATIONS
    assert order.sequence.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [0, 2], [1, 2], [1, 3], [1, 4]]


GOLDEN_BLOCKS = [[[(1, 0, 3), (3, 0, 2)]], [[(2, 0, 4), (0, 0, 5)]]]
GOLDEN_PERMUTATIONS = [[[0, 2, 1, 4, 3]], [[4, 0, 5, 6, 7, 8, 1, 3, 2]]]


@pytest.mark.parametrize("ends", [Ends.DROP, Ends.PAD, Ends.REPEAT])
def test_16_ranks_take_equally_many_steps(opened: Opener, ends: Ends) -> None:
    steps = [len(deliver(opened(rank=r, world_size=7, ends=ends))) for r in range(7)]
    assert len(set(steps)) == 1
    assert steps == [len(opened(rank=r, world_size=7, ends=ends)) for r in range(7)]


def test_17_fewer_splits_than_ranks_times_workers_is_an_error(opened: Opener) -> None:
    dataset = opened(splits=4, rank=0, world_size=3)
    with pytest.raises(ConfigError, match="4 splits cannot keep 3 ranks x 2 workers busy"):
        deliver(dataset, 2)


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_18_drop_pad_and_repeat_counts_are_exact(opened: Opener, workers: int) -> None:
    everything, world = deliver(opened()), 7
    total = len(everything)
    assert total % world
    rounds = total // world
    for ends, steps in ((Ends.DROP, rounds), (Ends.PAD, rounds + 1), (Ends.REPEAT, rounds + 1)):
        batches = [
            list(DataLoader(opened(rank=r, world_size=world, ends=ends), batch_size=None, num_workers=workers))
            for r in range(world)
        ]
        assert [len(b) for b in batches] == [steps] * world
        flat = [batch for step in range(steps) for rank in batches for batch in [rank[step]]]
        real = [content(b) for b in flat if not b.progress.repeated]
        assert real == everything[: len(real)]
        extra = [b for b in flat if b.progress.repeated]
        if ends is Ends.DROP:
            assert len(real) == rounds * world
            assert not extra
        else:
            assert len(real) == total
            assert len(extra) == steps * world - total
        if ends is Ends.PAD:
            assert all(b.num_requests == b.num_impressions == 0 for b in extra)
        if ends is Ends.REPEAT:
            assert [content(b) for b in extra] == everything[: len(extra)]


@pytest.mark.long
def test_27_the_epoch_reaches_persistent_workers(opened: Opener) -> None:
    dataset = opened()
    loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 2):
        dataset.set_epoch(epoch)
        found = [content(b) for b in loader]
        fresh = opened()
        fresh.set_epoch(epoch)
        assert found == deliver(fresh)


def test_28_shuffle_quality(lake: Lake) -> None:
    log = make_log(users=200, requests_per_user=10, days=1)
    lake.write("quality_tests", log, buckets=16)

    def users_per_batch(**options: object) -> float:
        dataset = DedupDataset(
            "quality_tests",
            lake.settings,
            batch_size=16,
            unit="requests",
            columns=["item_id"],
            splits=2,
            **options,  # type: ignore[arg-type]
        )
        return float(np.mean([len(set(b["user_id"].values.tolist())) for b in dataset]))

    stored, mixed = users_per_batch(shuffle=False), users_per_batch(mix=8)
    # 16 requests of 200 users with 10 each would have 15.5 users in a batch were they drawn at random.
    assert stored < 4
    assert mixed > 12
    dataset = DedupDataset("quality_tests", lake.settings, columns=["item_id"], splits=2, mix=8)
    order = np.array([request for _, request in requests_of(deliver(dataset))])
    assert abs(np.corrcoef(np.arange(len(order)), order)[0, 1]) < 0.1


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 20))
def test_batches_are_cut_greedily(costs: list[int], size: int) -> None:
    slow, current, total = [], [], 0
    for cost in costs:
        if current and total + cost > size:
            slow.append(current)
            current, total = [], 0
        current.append(cost)
        total += cost
    if current:
        slow.append(current)
    bounds = greedy_bounds(np.array(costs, dtype=np.int64), size).tolist()
    assert [costs[a:b] for a, b in pairwise(bounds)] == slow


@pytest.mark.parametrize("slow", ["plan", "read"])
def test_windows_that_are_passed_over_are_not_read(opened: Opener, monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    """Behind batches that other ranks had received, a split goes on some windows later: what was begun of those between
    is neither asked for nor read beside what comes."""
    options = {"splits": 1, "buffer_bytes": 1024, "batch_size": 60, "shuffle": False, "threads": 2}
    whole = deliver(opened(**options))
    busy: set[int] = set()
    read, start = UnitReader.read, SplitReader._start

    def alone(self: UnitReader, first: int, last: int) -> Decoded:
        assert id(self) not in busy, "two threads read one unit's files"
        busy.add(id(self))
        try:
            # Long enough for another thread to come.
            time.sleep(0.01 if slow == "read" else 0)
            return read(self, first, last)
        finally:
            busy.discard(id(self))

    def late(self: SplitReader, window: int) -> None:
        time.sleep(0.01)
        start(self, window)

    monkeypatch.setattr(UnitReader, "read", alone)
    if slow == "plan":
        monkeypatch.setattr(SplitReader, "_start", late)
    dataset = opened(**options)
    dataset.load_state_dict({**dataset.state_dict(), "done": [2, 3, 4, 5, 6]})
    some = [content(batch) for batch in islice(dataset, 3)]
    assert some == [whole[n] for n in (0, 1, 7)]


@pytest.mark.parametrize(("workers", "ranks", "better"), [(3, 1, 18), (3, 2, 18), (4, 1, None), (2, 2, None)])
def test_workers_that_do_not_divide_the_splits_are_told_so(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, workers: int, ranks: int, better: int | None
) -> None:
    here = SimpleNamespace(num_workers=workers, id=0, dataset=None)
    monkeypatch.setattr("dedup_storage.reader.dataset.get_worker_info", lambda: here)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        iter(opened(rank=0, world_size=ranks))
    told = [str(warning.message) for warning in found if "splits" in str(warning.message)]
    assert [f"splits={better}," in text for text in told] == ([] if better is None else [True])
