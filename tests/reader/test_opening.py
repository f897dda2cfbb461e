"""What is read when: units planned without keys, keys read with their unit, and the same batches either way."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.dedup.mixing import mix64
from dedup_storage.errors import DuplicateRowsError, StateMismatchError, StorageError
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupDataset, Ends
from dedup_storage.reader.decode.unit_reader import Decoded, UnitReader
from dedup_storage.reader.epoch.turns import Shard, splits_in_turn, turns
from dedup_storage.reader.hashing import combine
from dedup_storage.reader.open import plan, units
from dedup_storage.reader.open.keys import KeyReader, owners
from dedup_storage.reader.order import EpochOrder, OrderOptions, UnitSizes, UnitWeights
from dedup_storage.reader.state import Position
from tests.reader.lake import Lake, Log, make_log
from tests.reader.reading import content, contents, deliver, interleave, requests_of

SHAPES: dict[str, dict[str, Any]] = {
    "whole": {"buckets": 8},
    "parts": {"buckets": 2, "row_group_rows": 9},
    "files": {"buckets": 2, "files": 3, "row_group_rows": 9},
    "many": {"buckets": 24},
}


@pytest.fixture(scope="module")
def log(lake: Lake) -> Log:
    made = make_log(users=48, requests_per_user=5, tokens=60)
    for (shape, options), layout in itertools.product(SHAPES.items(), Layout):
        lake.standing(f"opening_{shape}_{layout.value}", made, layout=layout, **options)
    return made


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No dataset is small."""
    monkeypatch.setattr(plan, "SMALL_ROWS", 0)


MORE: dict[str, dict[str, Any]] = {
    "whole": {"unit": "requests", "batch_size": 7},
    "parts": {},
    "files": {"oversize": "split", "batch_size": 3},
    "many": {"drop_last": True},
}


class Read:
    """Files whose keys were read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: list[str] = []
        for name in ("read", "runs"):
            monkeypatch.setattr(KeyReader, name, self._spied(getattr(KeyReader, name)))

    def _spied(self, original: Any) -> Any:
        def spy(reader: KeyReader, ref: Any, file: Any, *given: Any, **named: Any) -> Any:
            self.files.append(file.path)
            return original(reader, ref, file, *given, **named)

        return spy


OPTIONS: dict[str, Any] = {"batch_size": 20, "columns": ["item_id", "history"], "splits": 4, "buffer_bytes": 30_000}


@pytest.mark.long
@pytest.mark.parametrize("layout", [Layout.SPLIT, Layout.FLAT])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_batches_are_the_same_whenever_keys_are_read(
    lake: Lake, log: Log, shape: str, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"opening_{shape}_{layout.value}"
    more = MORE[shape]
    early = DedupDataset(name, lake.settings, **{**OPTIONS, **more})
    everything = deliver(early)
    monkeypatch.setattr(plan, "SMALL_ROWS", 0)
    monkeypatch.setattr(units, "_KEPT_BYTES", 0)
    late = DedupDataset(name, lake.settings, **{**OPTIONS, **more})
    assert (late.plan.num_requests, late.plan.num_impressions) == (early.plan.num_requests, log.impressions.num_rows)
    assert deliver(late) == everything
    assert len(late) == len(early) == len(everything)
    ranks = [DedupDataset(name, lake.settings, **{**OPTIONS, **more}, rank=r, world_size=2) for r in range(2)]
    assert interleave([deliver(rank) for rank in ranks])[: len(everything)] == everything
    rows = [row for batch in DedupDataset(name, lake.settings, batch_size=20) for row in batch.to_arrow().to_pylist()]
    found = sorted((r["user_id"], r["request_id"], r["position"], r["item_id"]) for r in rows)
    wanted = log.impressions.select(["user_id", "request_id", "position", "item_id"]).to_pylist()
    assert found == sorted(tuple(r.values()) for r in wanted)


def test_opening_reads_no_key_and_the_first_batch_those_of_its_window(
    lake: Lake, log: Log, lazy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Read(monkeypatch)
    dataset = DedupDataset(
        "opening_many_split", lake.settings, batch_size=10, columns=["item_id"], prefetch=0, splits=8
    )
    total = len(dataset.plan.units)
    assert total > 32
    assert read.files == []
    assert repr(dataset).startswith(
        f"DedupDataset(opening_many_split, version 1: 240 requests, {log.impressions.num_rows:,}"
    )
    next(iter(dataset))
    # Request and impression file of each of the window's units.
    assert len(read.files) == len(set(read.files)) == 2 * len(dataset.order().units[0][:4])
    by_requests = DedupDataset("opening_many_split", lake.settings, batch_size=7, unit="requests", columns=["item_id"])
    read.files.clear()
    length = len(by_requests)
    assert read.files == []
    assert length == len(deliver(by_requests))


def test_what_keys_were_read_into_is_given_back_once_before_anything_is_decoded(
    lake: Lake, log: Log, lazy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, done = Read(monkeypatch), list[int]()
    pool, decode = pa.default_memory_pool(), UnitReader.read

    class Pool:
        def release_unused(self) -> None:
            done.append(len(read.files))
            pool.release_unused()

    def counting(self: UnitReader, start: int, stop: int) -> Decoded:
        done.append(-1)
        return decode(self, start, stop)

    monkeypatch.setattr(pa, "default_memory_pool", Pool)
    monkeypatch.setattr(UnitReader, "read", counting)
    dataset = DedupDataset("opening_many_split", lake.settings, batch_size=10, columns=["item_id"], splits=8)
    first, again = deliver(dataset), deliver(dataset)
    assert first == again
    # Behind the keys of the first window, before it is decoded; not in another pass.
    assert done[0] == 2 * len(dataset.order().units[0][:4])
    assert set(done[1:]) == {-1}


def test_lengths_that_a_worker_has_read_are_known_to_all(
    lake: Lake, log: Log, lazy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = DedupDataset("opening_parts_split", lake.settings, **OPTIONS)
    everything = deliver(dataset, 2)
    read = Read(monkeypatch)
    assert len(dataset) == len(everything)
    dataset.set_epoch(1)
    following = len(dataset)
    assert read.files == []
    assert following == len(deliver(dataset))
    alone = copy.deepcopy(dataset)  # as a spawned worker gets it
    read.files.clear()
    assert len(alone) == following
    assert read.files


def test_filters_on_whole_days_and_buckets_read_no_key(
    lake: Lake, log: Log, lazy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Read(monkeypatch)
    days = DedupDataset("opening_many_split", lake.settings, filters={"start": "2022-01-09"}, columns=["item_id"])
    buckets = DedupDataset("opening_many_split", lake.settings, filters={"buckets": [1, 2]}, columns=["item_id"])
    assert read.files == []
    wanted = [r for r in log.requests.to_pylist() if r["event_date"].day == 9]
    assert sorted(requests_of(deliver(days))) == sorted((r["user_id"], r["request_id"]) for r in wanted)
    assert len(days) == len(deliver(days))
    assert len(requests_of(deliver(buckets))) == buckets.plan.num_requests > 0
    read.files.clear()
    DedupDataset("opening_many_split", lake.settings, filters={"users": [3]})
    assert read.files


def test_what_is_wrong_is_told_when_its_unit_is_opened(lake: Lake, name: str, lazy: None) -> None:
    log = make_log(users=30, days=1, tokens=60)
    for cut in (None, 6):
        dataset = f"{name}_{cut}"
        spec = lake.write(dataset, log, buckets=1, row_group_rows=cut)
        # An impression of a user in the middle, whose request is not there.
        alone = log.impressions.slice(70, 1)
        place = alone.column_names.index("request_id")
        more = pa.concat_tables([log.impressions, alone.set_column(place, "request_id", pa.array([999_999]))])
        table = lake.table(dataset, "impressions")
        table.delete()
        lake.append(table, more.select(table.schema().as_arrow().names), spec.impression_key)
        lake.tag(dataset, 2)
        orphaned = DedupDataset(dataset, lake.settings, version=2, batch_size=10)
        assert len(orphaned.plan.units) > 1 if cut else len(orphaned.plan.units) == 1
        with pytest.raises(StorageError, match="1 impression has no request"):
            deliver(orphaned)
        skipping = DedupDataset(dataset, lake.settings, version=2, batch_size=10, orphans="skip")
        assert sorted(requests_of(deliver(skipping))) == sorted(
            zip(log.requests["user_id"].to_pylist(), log.requests["request_id"].to_pylist(), strict=True)
        )
        # Each request twice, the second time in the next row group for some of them.
        table = lake.table(dataset, "requests")
        table.delete()
        lake.append(
            table, pa.concat_tables([log.requests] * 2).select(table.schema().as_arrow().names), spec.request_key
        )
        lake.tag(dataset, 3)
        with pytest.raises(DuplicateRowsError, match=r"request rows? repeats? the key of another"):
            deliver(DedupDataset(dataset, lake.settings, version=3, batch_size=10))


def test_a_key_that_is_there_twice_is_found_across_a_cut(lake: Lake, name: str, lazy: None) -> None:
    log = make_log(users=3, requests_per_user=20, days=1, tokens=60)
    twice = pa.concat_tables([log.requests, log.requests.slice(27, 1)]).sort_by(
        [("user_id", "ascending"), ("request_id", "ascending")]
    )
    # Row 27 is the last of one row group, row 28 the first of the next.
    lake.write(name, Log(log.schema, twice, log.impressions), buckets=1, row_group_rows=28)
    dataset = DedupDataset(name, lake.settings)
    assert [u.start for u in dataset.plan.units.planned] == [0, 28, 56]
    assert len(dataset.plan.units[0]) == 28
    with pytest.raises(DuplicateRowsError, match="1 request row repeats the key of another"):
        _ = dataset.plan.units[1]


def test_more_impressions_of_a_request_than_positions_are_refused(lake: Lake, name: str, lazy: None) -> None:
    log = make_log(users=6, candidates=1)
    one = log.impressions.set_column(
        log.impressions.column_names.index("position"), "position", pa.array([0] * log.impressions.num_rows, pa.int32())
    )
    doubled = Log(log.schema, log.requests, pa.concat_tables([one, one]))
    lake.write(name, doubled)
    with pytest.raises(StorageError, match="several impressions at one position"):
        deliver(DedupDataset(name, lake.settings, columns=["item_id"]))
    assert len(requests_of(deliver(DedupDataset(name, lake.settings, columns=["item_id"], unit="requests")))) == 30


def test_a_state_of_the_order_before_is_refused_by_name(lake: Lake, log: Log) -> None:
    state = DedupDataset("opening_whole_split", lake.settings).state_dict()
    del state["pins"]["order"]
    with pytest.raises(
        StateMismatchError, match=r"another order of batches: .*order 1. Finish epoch 0 .*set_epoch\(1\)"
    ):
        DedupDataset("opening_whole_split", lake.settings).load_state_dict(state)


# -- plain slow forms ---------------------------------------------------------------------------------------------
def slow_split(sizes: list[UnitSizes], first: list[int], chosen: list[int], options: OrderOptions, key: int) -> int:
    """Batches of a split, by lists and loops."""
    mix = min(options.mix, max(len(chosen), 1)) if options.shuffle else 1
    block = options.buffer_bytes / options.splits / mix / 2
    waiting, costs = list(chosen), list[int]()
    active: list[list[list[tuple[int, int]]]] = []
    while waiting or active:
        while waiting and len(active) < mix:
            unit, before = waiting.pop(0), 0.0
            blocks: dict[int, list[tuple[int, int]]] = {}
            for row, length in enumerate(sizes[unit].lengths.tolist()):
                blocks.setdefault(int(before // max(block, 1.0)), []).append((unit, row))
                before += sizes[unit].request_bytes + sizes[unit].impression_bytes * length
            if blocks:
                active.append(list(blocks.values()))
        window = [pair for blocks in active for pair in blocks.pop(0)]
        active = [blocks for blocks in active if blocks]
        if options.shuffle:
            window.sort(key=lambda pair: int(mix64(np.array([(first[pair[0]] + pair[1]) ^ key], np.uint64))[0]))
        costs += [int(sizes[unit].cost[row]) for unit, row in window]
    if options.split_oversize:
        costs = [min(cost - d, options.batch_size) for cost in costs for d in range(0, cost, options.batch_size)]
    batches, total = list[int](), 0
    for cost in costs:
        if not batches or total + cost > options.batch_size:
            batches.append(0)
            total = 0
        total += cost
        batches[-1] = total
    return len(batches) - bool(options.drop_last and batches and batches[-1] < options.batch_size)


@st.composite
def orders(draw: st.DrawFn) -> tuple[list[UnitSizes], OrderOptions, int]:
    lengths = draw(st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=7))
    by_requests = draw(st.booleans())
    sizes = [
        UnitSizes(
            np.array(unit, dtype=np.int32),
            np.ones(len(unit), dtype=np.int64) if by_requests else np.maximum(np.array(unit, dtype=np.int64), 1),
            8.0,
            4.0,
        )
        for unit in lengths
    ]
    options = OrderOptions(
        batch_size=draw(st.integers(1, 12)),
        splits=draw(st.integers(1, 4)),
        shuffle=draw(st.booleans()),
        seed=draw(st.integers(0, 3)),
        buffer_bytes=draw(st.sampled_from([1024, 2048, 1 << 20])),
        mix=draw(st.integers(1, 3)),
        split_oversize=draw(st.booleans()) and not by_requests,
        drop_last=draw(st.booleans()),
    )
    return sizes, options, draw(st.integers(0, 2))


@given(orders())
def test_the_sequence_followed_is_the_sequence_counted(drawn: tuple[list[UnitSizes], OrderOptions, int]) -> None:
    sizes, options, epoch = drawn
    order = EpochOrder(sizes, options, epoch)
    # Only requests are known, as where many impressions of one request are possible.
    rows = np.array([len(u.lengths) for u in sizes], dtype=np.int64)
    weights = UnitWeights.of(sizes, options.batch_size)
    known = UnitWeights(rows, weights.weights, rows)
    followed = EpochOrder(sizes, options, epoch, known)
    first = [0, *itertools.accumulate(rows.tolist())]
    key = combine(options.seed, epoch)
    counts = [
        slow_split(sizes, first, chosen, options, combine(key, 2, split)) for split, chosen in enumerate(order.units)
    ]
    slow = [
        (split, number)
        for number in range(max(counts, default=0))
        for split, total in enumerate(counts)
        if number < total
    ]
    assert order.sequence.tolist() == [list(pair) for pair in slow]
    assert all(known <= total for known, total in zip(order.at_least, counts, strict=True))
    assert all(known <= total for known, total in zip(followed.at_least, counts, strict=True))
    planned = {split: followed.split(split) for split in range(options.splits)}

    def has(split: int, number: int) -> bool:
        sure = followed.surely(split, number)
        return planned[split].has(number) if sure is None else sure

    for start in (0, 1, len(slow) // 2, len(slow)):
        found = list(followed.follow(start, has))
        assert found == [(i, *pair) for i, pair in enumerate(slow)][start:]


@given(
    orders(),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from(list(Ends)),
    st.integers(0, 8),
    st.sets(st.integers(1, 6)),
)
def test_turns_equal_the_slow_form(
    drawn: tuple[list[UnitSizes], OrderOptions, int],
    world: int,
    workers: int,
    ends: Ends,
    start: int,
    ahead: set[int],
) -> None:
    order = EpochOrder(*drawn)
    sequence = [tuple(pair) for pair in order.sequence.tolist()]
    total = len(sequence)
    start = min(start, total)
    base = Position(drawn[2], start, tuple(sorted(start + a for a in ahead if start + a < total)))
    left = [index for index in range(start, total) if index not in base.done]
    for shard in range(world * workers):
        steps = Shard(shard, world * workers).steps(len(left), world, ends) if left else 0
        slow: list[tuple[Any, ...]] = []
        for step in range(steps):
            place = shard + step * world * workers
            if place < len(left):
                slow.append((place, left[place], *sequence[left[place]], False))
            elif ends is Ends.PAD:
                slow.append((place, total, -1, 0, True))
            else:
                again = (place - len(left)) % total
                slow.append((place, again, *sequence[again], True))
        found = list(turns(order, base, Shard(shard, world * workers), world, ends, lambda s, n: n < order.counts[s]))
        assert [tuple(turn) for turn in found] == slow
        if not base.done and total and len({order.counts[s] for s in range(drawn[1].splits) if order.counts[s]}) == 1:
            expected = {split for _, _, split, _, repeated in slow if not repeated}
            assert expected <= splits_in_turn(order, base, Shard(shard, world * workers))


def keys_of(rows: list[tuple[int, int]]) -> list[pa.Array]:
    return [pa.array([row[column] for row in rows], pa.int64()) for column in range(2)]


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 3))), st.data())
def test_owners_equal_a_dictionary(drawn: set[tuple[int, int]], data: st.DataObject) -> None:
    candidates = sorted(drawn)
    rows = data.draw(st.lists(st.tuples(st.integers(-1, 7), st.integers(0, 3)), max_size=6))
    runs = [*rows[:2], *candidates, *rows[2:]] if data.draw(st.booleans()) else rows
    numbers = {key: number for number, key in enumerate(candidates)}
    assert owners(keys_of(candidates), keys_of(runs)).tolist() == [numbers.get(key, -1) for key in runs]


def test_resume_reads_no_unit_that_other_shards_have(lake: Lake, log: Log, lazy: None) -> None:
    """A position, after any step, with few units kept."""
    everything = deliver(DedupDataset("opening_parts_split", lake.settings, **OPTIONS))
    dataset = DedupDataset("opening_parts_split", lake.settings, **OPTIONS)
    batches: Iterator[Any] = iter(dataset)
    resumed = DedupDataset("opening_parts_split", lake.settings, **OPTIONS)
    for step in range(0, len(everything), 5):
        resumed.load_state_dict(dataset.state_dict())
        rest = iter(resumed)
        assert contents(itertools.islice(rest, 2)) == everything[step : step + 2]
        rest.close()
        for _ in range(5):
            if next(batches, None) is None:
                break
    assert content(next(iter(DedupDataset("opening_parts_split", lake.settings, **OPTIONS)))) == everything[0]
