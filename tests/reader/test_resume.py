"""Behaviours 7 to 15 and 24: resume, exact at any step and for any number of ranks and workers."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from dedup_storage.errors import StateMismatchError
from dedup_storage.reader import DedupBatch, DedupDataset, merge_states
from dedup_storage.reader.epoch.tally import Tally
from dedup_storage.reader.state import Position, ReaderState
from tests.reader.lake import Lake, make_log
from tests.reader.reading import content, contents, deliver, interleave

Opener = Callable[..., DedupDataset]


@pytest.fixture(scope="module")
def opened(lake: Lake) -> Opener:
    lake.standing("resume_tests", make_log(users=24, requests_per_user=5), buckets=8)

    def open_dataset(**options: object) -> DedupDataset:
        values: dict[str, object] = {"batch_size": 20, "columns": ["item_id"], "splits": 16, **options}
        return DedupDataset("resume_tests", lake.settings, **values)  # type: ignore[arg-type]

    return open_dataset


def loader(dataset: DedupDataset, workers: int, stateful: bool) -> Any:
    kind = StatefulDataLoader if stateful else DataLoader
    return kind(dataset, batch_size=None, num_workers=workers)


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(json.dumps(state))
    return read


@pytest.mark.parametrize("where", ["first", "middle", "last", "post-end"])
@pytest.mark.parametrize("workers", [0, 2])
def test_07_resume_with_a_plain_loader(opened: Opener, where: str, workers: int) -> None:
    everything = deliver(opened())
    stop = {"first": 1, "middle": len(everything) // 2, "last": len(everything) - 1, "post-end": len(everything)}[where]
    dataset, before = opened(), []
    for batch in dataset.track(DataLoader(dataset, batch_size=None, num_workers=workers)):
        before.append(content(batch))
        if len(before) == stop:
            break
    resumed = opened()
    resumed.load_state_dict(through_json(dataset.state_dict()))
    assert before + deliver(resumed, workers) == everything


@pytest.mark.parametrize("where", ["first", "middle", "last", "post-end"])
@pytest.mark.parametrize("workers", [0, 2])
def test_07_resume_with_stateful_dataloader(opened: Opener, where: str, workers: int) -> None:
    everything = deliver(opened())
    stop = {"first": 1, "middle": len(everything) // 2, "last": len(everything) - 1, "post-end": len(everything)}[where]
    first, before = loader(opened(), workers, True), []
    for batch in first:
        before.append(content(batch))
        if len(before) == stop:
            break
    second = loader(opened(), workers, True)
    second.load_state_dict(through_json(first.state_dict()))
    assert before + contents(second) == everything


def test_07_resume_at_every_step(opened: Opener) -> None:
    everything, dataset = deliver(opened()), opened()
    iterator = iter(dataset)
    resumed = opened()
    for step in range(len(everything)):
        resumed.load_state_dict(dataset.state_dict())
        assert content(next(iter(resumed))) == everything[step]
        next(iterator)


def test_08_resume_twice(opened: Opener) -> None:
    everything, found, state = deliver(opened()), [], None
    for _ in range(3):
        dataset = opened()
        if state is not None:
            dataset.load_state_dict(state)
        iterator = iter(dataset)
        found += [content(next(iterator)) for _ in range(4)]
        state = through_json(dataset.state_dict())
    last = opened()
    last.load_state_dict(state or {})
    assert found + deliver(last) == everything


def test_09_workers_2_8_2_and_ranks_2_1(opened: Opener) -> None:
    everything, found, state = deliver(opened()), [], None
    for workers, stop in ((2, 5), (8, 4), (2, 3)):
        dataset = opened()
        if state is not None:
            dataset.load_state_dict(state)
        stateful = loader(dataset, workers, True)
        for step, batch in enumerate(stateful):
            found.append(content(batch))
            if step + 1 == stop:
                break
        state = merge_states([through_json(stateful.state_dict())])
    ranks, states = [], []
    for rank in range(2):
        dataset = opened(rank=rank, world_size=2)
        dataset.load_state_dict(state or {})
        iterator = iter(dataset)
        ranks.append([content(next(iterator)) for _ in range(2)])
        states.append(dataset.state_dict())
    found += interleave(ranks)
    alone = opened()
    alone.load_state_dict(merge_states(states))
    assert found + deliver(alone) == everything


def test_09_ranks_killed_at_different_steps_lose_and_repeat_nothing(opened: Opener) -> None:
    everything, before, states = deliver(opened()), [], []
    for rank, steps in ((0, 5), (1, 2), (2, 0)):
        dataset = opened(rank=rank, world_size=3)
        iterator = iter(dataset)
        before += [content(next(iterator)) for _ in range(steps)]
        states.append(through_json(dataset.state_dict()))
    after = []
    for rank in range(2):
        dataset = opened(rank=rank, world_size=2, ends="uneven")
        dataset.load_state_dict(merge_states(states))
        after += deliver(dataset, 1)
    assert sorted(before + after) == sorted(everything)


@pytest.mark.parametrize("stateful", [False, True])
def test_10_prefetched_but_unreturned_batches_do_not_count(opened: Opener, stateful: bool) -> None:
    everything, dataset = deliver(opened()), opened(prefetch=8)
    batches = loader(dataset, 0, stateful)
    iterator = iter(batches)
    for _ in range(3):
        next(iterator)
    resumed = opened()
    resumed.load_state_dict(merge_states([batches.state_dict()]) if stateful else dataset.state_dict())
    assert deliver(resumed) == everything[3:]


def slowed(batch: DedupBatch) -> DedupBatch:
    """Batches of even numbers take longer, so that a loader that need not keep the order changes it."""
    if batch.progress.index % 2 == 0:
        time.sleep(0.3)
    return batch


def test_10_batches_that_came_out_of_order_are_each_counted(opened: Opener) -> None:
    dataset = opened(transform=slowed)
    batches = iter(dataset.track(DataLoader(dataset, batch_size=None, num_workers=2, in_order=False)))
    seen = [next(batches).progress.index for _ in range(5)]
    state, total = through_json(dataset.state_dict()), len(dataset)
    del batches
    second = opened()
    second.load_state_dict(state)
    seen += [b.progress.index for b in second.track(DataLoader(second, batch_size=None, num_workers=2))]
    assert sorted(seen) == list(range(total))


@given(st.permutations(range(9)), st.integers(0, 9), st.permutations(range(9)), st.integers(0, 9))
def test_10_ranks_that_received_in_any_order_leave_exactly_the_rest(
    left: list[int], first: int, right: list[int], second: int
) -> None:
    states, came = [], set()
    for rank, numbers in enumerate((left[:first], right[:second])):
        received = Tally(2, ordered=False)
        for number in numbers:
            received.add(0, rank + 2 * number)
            came.add(rank + 2 * number)
        states.append(ReaderState({}, Position(), rank, 2, received.steps, tuple(sorted(received.ahead))).to_dict())
    merged = ReaderState.from_dict(merge_states(states)).base
    assert merged.remaining(18).tolist() == [n for n in range(18) if n not in came]
    alone = ReaderState.from_dict(states[0])
    if alone.ahead:
        with pytest.raises(StateMismatchError, match="out of order"):
            _ = alone.lockstep


def test_10_an_epoch_with_more_batches_than_the_first_is_no_mistake(opened: Opener) -> None:
    dataset = opened(batch_size=16)
    loader = DataLoader(dataset, batch_size=None)
    lengths = set()
    len(loader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epoch in range(6):
            dataset.set_epoch(epoch)
            lengths.add(len(loader))
            assert sum(1 for _ in loader) == len(loader)
    assert len(lengths) > 1


def test_11_a_request_in_flight_survives(lake: Lake, name: str) -> None:
    lake.write(name, make_log(users=6, requests_per_user=2, giant=50))
    options: dict[str, Any] = {"batch_size": 8, "oversize": "split", "columns": ["item_id"]}
    whole = list(DedupDataset(name, lake.settings, **options))
    parts = [i for i, b in enumerate(whole) if b.progress.continues]
    assert len(parts) >= 5
    for stop in parts:
        dataset = DedupDataset(name, lake.settings, **options)
        iterator = iter(dataset)
        before = [content(next(iterator)) for _ in range(stop)]
        resumed = DedupDataset(name, lake.settings, **options)
        resumed.load_state_dict(dataset.state_dict())
        assert before + deliver(resumed) == contents(whole)


def test_12_state_before_iteration_and_load_then_save_is_the_identity(opened: Opener) -> None:
    everything, dataset = deliver(opened()), opened()
    fresh = dataset.state_dict()
    resumed = opened()
    resumed.load_state_dict(fresh)
    assert deliver(resumed) == everything
    iterator = iter(dataset)
    for _ in range(5):
        next(iterator)
    middle = opened()
    middle.load_state_dict(dataset.state_dict())
    saved = middle.state_dict()
    again = opened()
    again.load_state_dict(saved)
    assert again.state_dict() == saved


def test_13_state_is_json(opened: Opener) -> None:
    dataset = opened()
    next(iter(dataset))
    state = dataset.state_dict()
    assert json.loads(json.dumps(state)) == state
    assert len(json.dumps(state)) < 2000


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 5}, "another seed"),
        ({"splits": 8}, "another number of splits"),
        ({"columns": ["item_id", "price"]}, "other columns"),
        ({"batch_size": 21}, "other options"),
        ({"filters": {"buckets": (0, 1)}}, "other filters"),
    ],
)
def test_14_another_configuration_is_refused(opened: Opener, changed: dict[str, Any], named: str) -> None:
    state = opened().state_dict()
    with pytest.raises(StateMismatchError, match=f"the state belongs to {named};"):
        opened(**changed).load_state_dict(state)


def test_14_another_snapshot_is_refused(lake: Lake, name: str) -> None:
    log = make_log(users=4)
    spec = lake.write(name, log)
    state = DedupDataset(name, lake.settings).state_dict()
    table = lake.table(name, "requests")
    table.append(table.scan().to_arrow().slice(0, 0))
    more = make_log(users=5)
    new = more.requests.filter(more.requests["user_id"].to_numpy() == 4)
    lake.append(table, new.select(table.schema().as_arrow().names), spec.request_key)
    lake.tag(name, 2)
    with pytest.raises(StateMismatchError, match="the state belongs to other snapshots of the tables;"):
        DedupDataset(name, lake.settings).load_state_dict(state)
    DedupDataset(name, lake.settings, version=1).load_state_dict(state)


def test_14_a_foreign_or_damaged_state_is_refused(opened: Opener) -> None:
    with pytest.raises(StateMismatchError, match="not a state of this reader"):
        opened().load_state_dict({"epoch": 3})
    state = opened().state_dict()
    del state["start"]
    with pytest.raises(StateMismatchError, match="damaged"):
        opened().load_state_dict(state)
    with pytest.raises(StateMismatchError, match="do not cover every share"):
        merge_states([opened(rank=0, world_size=2).state_dict()])


def test_15_resume_beyond_epoch_0(opened: Opener) -> None:
    reference = opened()
    reference.set_epoch(4)
    everything = deliver(reference)
    dataset = opened()
    dataset.set_epoch(4)
    iterator = iter(dataset)
    before = [content(next(iterator)) for _ in range(3)]
    resumed = opened()
    resumed.load_state_dict(dataset.state_dict())
    assert resumed.epoch == 4
    assert before + deliver(resumed) == everything
    resumed.set_epoch(5)
    following = opened()
    following.set_epoch(5)
    assert deliver(resumed) == deliver(following)


def test_24_state_dict_starts_no_prefetch(opened: Opener) -> None:
    dataset = opened(prefetch=4)
    iterator = iter(dataset)
    threads = set(threading.enumerate())
    iterator.state_dict()
    dataset.state_dict()
    assert set(threading.enumerate()) == threads


@given(
    start=st.integers(0, 20),
    ahead=st.sets(st.integers(0, 12), max_size=5),
    steps=st.lists(st.integers(0, 6), min_size=1, max_size=5),
)
def test_position_after_equals_the_slow_form(start: int, ahead: set[int], steps: list[int]) -> None:
    done = tuple(sorted(start + 1 + a for a in ahead))
    base = Position(0, start, done)
    received = set(range(start)) | set(done)
    left = [g for g in range(200) if g not in received]
    for shard, count in enumerate(steps):
        received |= set(left[shard :: len(steps)][:count])
    after = base.after([(shard, len(steps), count) for shard, count in enumerate(steps)])
    assert set(range(after.start)) | set(after.done) == received
    assert after.start not in received
