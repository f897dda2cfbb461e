"""The loop as a trainer writes it: what it forgets is told by name, and what it does is counted."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from dedup_storage.errors import ConfigError, StateMismatchError
from dedup_storage.reader import DedupBatch, DedupDataset, merge_states
from tests.reader.lake import Lake, make_log
from tests.reader.reading import content, contents, deliver, interleave

Opener = Callable[..., DedupDataset]

LISTED: dict[str, Any] = {"columns": ["item_id", "history"]}


@pytest.fixture(scope="module")
def opened(lake: Lake) -> Opener:
    lake.standing("loop_tests", make_log(users=24, requests_per_user=5), buckets=8)

    def open_dataset(**options: object) -> DedupDataset:
        values: dict[str, object] = {"batch_size": 20, "columns": ["item_id"], "splits": 16, **options}
        return DedupDataset("loop_tests", lake.settings, **values)  # type: ignore[arg-type]

    return open_dataset


def delay_even(batch: DedupBatch) -> DedupBatch:
    """Let the first of two workers fall behind."""
    if batch.progress.index % 2 == 0:
        time.sleep(0.1)
    return batch


def first_of(batches: list[DedupBatch]) -> DedupBatch:
    """A collate function that undoes ``batch_size=1``."""
    return batches[0]


def test_a_state_that_nobody_counted_is_refused(opened: Opener) -> None:
    dataset = opened()
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    assert dataset.state_dict()["steps"] == 0
    last = next(iter(loader))
    with pytest.raises(ConfigError, match=r"this process did not see which; expected state_dict\(after=batch\)"):
        dataset.state_dict()
    assert dataset.state_dict(after=last)["steps"] == 1
    dataset.set_epoch(1)
    assert (dataset.state_dict()["epoch"], dataset.state_dict()["steps"]) == (1, 0)
    for batch in dataset.track(loader):
        last = batch
    assert dataset.state_dict() == dataset.state_dict(after=last)
    list(loader)
    with pytest.raises(ConfigError, match="did not see which"):
        dataset.state_dict()


def test_batches_in_any_order_are_counted_one_by_one(opened: Opener) -> None:
    everything = deliver(opened())
    dataset, before, disordered = opened(transform=delay_even), [], False
    loader = DataLoader(dataset, batch_size=None, num_workers=2, in_order=False)
    for batch in dataset.track(loader):
        before.append(content(batch))
        disordered |= batch.progress.place + 1 < len(before) or batch.progress.place > len(before)
        if len(before) == 9:
            break
    state = dataset.state_dict()
    assert disordered
    assert len(state.get("ahead", ())) + state["steps"] == 9
    with pytest.raises(ConfigError, match="come in any order with in_order=False"):
        dataset.state_dict(after=batch)
    resumed = opened()
    resumed.load_state_dict(state)
    assert sorted(before + deliver(resumed)) == everything
    merged = opened()
    merged.load_state_dict(merge_states([state]))
    assert merged.position() == resumed.position()


def test_a_stateful_loader_in_any_order_has_no_state_to_resume_from(opened: Opener) -> None:
    loader = StatefulDataLoader(opened(), batch_size=None, num_workers=2, in_order=False)
    next(iter(loader))
    state = loader.state_dict()
    with pytest.raises(StateMismatchError, match="StatefulDataLoader with in_order=False"):
        merge_states([state])
    again = StatefulDataLoader(opened(), batch_size=None, num_workers=2)
    again.load_state_dict(state)
    with pytest.raises(StateMismatchError, match="StatefulDataLoader with in_order=False"):
        next(iter(again))


def test_a_pipeline_that_holds_batches_ahead_resumes_after_the_last_that_it_trained(opened: Opener) -> None:
    """As TorchRec's pipelines do: what they have taken is counted by ``track``, and not yet trained."""
    everything, trained, held = deliver(opened()), [], []
    dataset = opened()
    for batch in dataset.track(DataLoader(dataset, batch_size=None)):
        held.append(batch)
        if len(held) == 3:
            last = held.pop(0)
            trained.append(content(last))
        if len(trained) == 4:
            break
    assert (dataset.state_dict()["steps"], dataset.state_dict(after=last)["steps"]) == (6, 4)
    resumed = opened()
    resumed.load_state_dict(dataset.state_dict(after=last.progress))
    assert trained + deliver(resumed) == everything


@pytest.mark.long
def test_one_rank_out_of_order_does_not_stand_for_the_others(opened: Opener) -> None:
    state = {**opened(rank=0, world_size=2).state_dict(), "format": 2, "ahead": [3]}
    with pytest.raises(StateMismatchError, match=r"received out of order.*merge_states"):
        opened(rank=1, world_size=2).load_state_dict(state)
    other = opened(rank=1, world_size=2).state_dict()
    both = merge_states([state, other])
    assert (both["start"], both["done"]) == (0, [6])


@pytest.mark.long
def test_an_epoch_read_again_is_told_once(opened: Opener) -> None:
    dataset = opened()
    list(dataset)
    with pytest.warns(UserWarning, match=r"epoch 0 of loop_tests is read again.*call set_epoch\(1\)"):
        next(iter(dataset))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(dataset)
        fresh = opened()
        list(fresh)
        fresh.set_epoch(1)
        list(fresh)
        ordered = opened(shuffle=False)
        assert contents(ordered) == contents(ordered)


@pytest.mark.parametrize("tracked", [False, True])
def test_an_epoch_read_again_is_told_where_nobody_asked_for_its_end(opened: Opener, tracked: bool) -> None:
    """A loop of so many steps as there are takes the last batch and no more."""
    dataset = opened()
    for steps in (len(dataset) - 1, len(dataset)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            batches = iter(dataset.track(DataLoader(dataset, batch_size=None)) if tracked else dataset)
            for _ in range(steps):
                next(batches)
    with pytest.warns(UserWarning, match=r"epoch 0 of loop_tests is read again.*call set_epoch\(1\)"):
        next(iter(dataset))


def test_the_rest_of_an_epoch_read_again_is_told(opened: Opener) -> None:
    """A loop that never calls ``set_epoch`` would read what a state has left over, and nothing else, for good."""
    for shuffle in (True, False):
        first = opened(shuffle=shuffle)
        next(iter(first))
        again = opened(shuffle=shuffle)
        again.load_state_dict(first.state_dict())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rest = deliver(again)
            again.load_state_dict(first.state_dict())
            assert deliver(again) == rest
        with pytest.warns(UserWarning, match=r"epoch 0 .* only what a state left of it: call set_epoch\(1\)"):
            assert deliver(again) == rest


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_without_a_batch_has_a_state(opened: Opener, workers: int) -> None:
    whole = opened()
    for _ in whole.track(DataLoader(whole, batch_size=None)):
        continue
    ended = opened()
    ended.load_state_dict(whole.state_dict())
    assert list(ended.track(DataLoader(ended, batch_size=None, num_workers=workers))) == []
    later = opened()
    later.load_state_dict(ended.state_dict())
    assert (len(later), later.state_dict()["epoch"]) == (0, 0)


def test_len_does_not_make_later_epochs_warn(opened: Opener) -> None:
    dataset = opened()
    loader = DataLoader(dataset, batch_size=None)
    lengths = {}
    for epoch in range(8):
        dataset.set_epoch(epoch)
        lengths[epoch] = len(dataset)
    shortest, *later = sorted(lengths, key=lengths.__getitem__)
    assert lengths[later[-1]] > lengths[shortest]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset.set_epoch(shortest)
        assert len(loader) == lengths[shortest]
        for epoch in (shortest, later[-1]):
            dataset.set_epoch(epoch)
            assert sum(1 for _ in loader) == lengths[epoch]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_batches_again_is_told_by_name(opened: Opener, workers: int) -> None:
    with pytest.raises(ConfigError, match=r"batch_size=1.*DataLoader\(dataset, batch_size=None\)"):
        next(iter(DataLoader(opened(), num_workers=workers)))
    undone = DataLoader(opened(), batch_size=1, collate_fn=first_of, num_workers=workers)
    assert contents(undone) == deliver(opened())


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_loaders_own_state_skipped_counts_as_received(opened: Opener, workers: int) -> None:
    """A run from a dataset's state, then from its loader's, then from the dataset's again, as ``track`` counted."""
    opened_at = opened()
    opened_at.set_epoch(2)
    everything = deliver(opened_at)
    first = opened()
    first.set_epoch(2)
    iterator = iter(first)
    found = [content(next(iterator)) for _ in range(3)]
    second = opened()
    second.load_state_dict(first.state_dict())
    loader = StatefulDataLoader(second, batch_size=None, num_workers=workers)
    received = iter(loader)
    found += [content(next(received)) for _ in range(4)]
    third = opened()
    again = StatefulDataLoader(third, batch_size=None, num_workers=workers)
    again.load_state_dict(loader.state_dict())
    for number, batch in enumerate(third.track(again)):
        found.append(content(batch))
        if number == 4:
            break
    assert third.epoch == 2
    last = opened()
    last.load_state_dict(third.state_dict())
    assert found + deliver(last, workers) == everything


class DataLoaderDispatcher:
    """Iterates a dataset as accelerate's class of this name does, without accelerate."""

    __module__ = "accelerate.data_loader"

    def read(self, dataset: DedupDataset) -> list[DedupBatch]:
        return list(DataLoader(dataset, batch_size=None))


def test_accelerate_does_not_shard_a_second_time(opened: Opener) -> None:
    with pytest.raises(ConfigError, match=r"accelerate's DataLoaderDispatcher shards.*out of accelerator\.prepare"):
        DataLoaderDispatcher().read(opened(rank=0, world_size=2))
    assert contents(DataLoaderDispatcher().read(opened())) == deliver(opened())


def test_a_loaders_state_of_rank_0_goes_on_on_every_rank(opened: Opener) -> None:
    everything = deliver(opened(ends="uneven"))
    ranks = [StatefulDataLoader(opened(rank=r, world_size=2), batch_size=None, num_workers=2) for r in range(2)]
    iterators = [iter(loader) for loader in ranks]
    before = [[content(next(iterator)) for _ in range(3)] for iterator in iterators]
    state = ranks[0].state_dict()
    after = []
    for rank in range(2):
        loader = StatefulDataLoader(opened(rank=rank, world_size=2, ends="uneven"), batch_size=None, num_workers=2)
        loader.load_state_dict(state)
        after.append(contents(loader))
    assert interleave(before) + interleave(after) == everything
    alone = StatefulDataLoader(opened(), batch_size=None, num_workers=2)
    alone.load_state_dict(state)
    with pytest.raises(StateMismatchError, match=r"another number of ranks or workers.*merge_states"):
        next(iter(alone))


@pytest.mark.long
def test_a_group_formed_after_opening_counts(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    everything, dataset = deliver(opened(ends="uneven")), opened(ends="uneven")
    assert (dataset.rank, dataset.world_size) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE tells of 2 processes, and nothing tells which"):
        next(iter(dataset))
    monkeypatch.setenv("RANK", "1")
    assert deliver(dataset, 2) == everything[1::2]
    assert len(dataset) == len(everything[1::2])


@pytest.mark.long
@pytest.mark.parametrize(
    ("saved", "changed", "told"),
    [
        ({"batch_size": 512}, {}, "batch_size was 512. Open with batch_size=512."),
        ({"seed": 3}, {"seed": 4}, "seed was 3. Open with seed=3."),
        ({"splits": 8}, {}, "splits was 8. Open with splits=8."),
        ({"unit": "requests", "mix": 2}, {}, "unit was 'requests', mix was 2. Open with unit='requests', mix=2."),
        ({"filters": {"users": [1, 2]}}, {}, "filters was {'users': [1, 2]}. Open with filters={'users': [1, 2]}."),
        ({"columns": ["item_id"]}, {"columns": ["price"]}, "columns was ('item_id',). Open with columns=('item_id',)."),
        ({"together": 2, "histories": "shared", **LISTED}, LISTED, "Open with together=2, histories='shared'."),
        ({"batch_size": 9, "seed": 3}, {}, "Open with batch_size=9, seed=3."),
        ({"across_dates": True, "splits": None}, {"splits": None}, "Open with across_dates=True."),
    ],
)
def test_a_refused_state_names_the_option(
    opened: Opener, saved: dict[str, Any], changed: dict[str, Any], told: str
) -> None:
    with pytest.raises(StateMismatchError) as refused:
        opened(**changed).load_state_dict(opened(**saved).state_dict())
    assert told in str(refused.value)
    former = opened(**saved).state_dict()
    del former["opened"]  # as releases before this one wrote it
    with pytest.raises(StateMismatchError, match=r"Open the reader as it was|was "):
        opened(**changed).load_state_dict(former)


def test_a_refused_state_names_the_version(lake: Lake, name: str) -> None:
    log = make_log(users=4)
    lake.write(name, log)
    state = DedupDataset(name, lake.settings).state_dict()
    table = lake.table(name, "requests")
    table.append(table.scan().to_arrow().slice(0, 0))
    lake.tag(name, 2)
    with pytest.raises(StateMismatchError, match=r"expected version 2; got saved at version 1. Open with version=1\."):
        DedupDataset(name, lake.settings).load_state_dict(state)
    DedupDataset(name, lake.settings, version=1).load_state_dict(state)
