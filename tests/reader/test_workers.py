"""Workers of one rank share the decoding: nobody decodes what another does, and the batches are those of one alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count, islice
from multiprocessing import get_context
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from dedup_storage.errors import StorageError
from dedup_storage.reader import DedupBatch, DedupDataset
from dedup_storage.reader.decode.unit_reader import Decoded, UnitReader
from dedup_storage.reader.epoch import desk, fellows, peers, sharing
from dedup_storage.reader.epoch.fellows import Fellows
from dedup_storage.reader.epoch.iterate import BatchIterator, Cursor, Job, Shard
from dedup_storage.reader.epoch.makers import makers_of
from dedup_storage.reader.state import Position
from tests.reader.lake import Lake, Log, make_log

Opener = Callable[..., DedupDataset]
Delivered = tuple[Any, dict[str, bytes]]
_passes = count()


@pytest.fixture(scope="module")
def log() -> Log:
    return make_log(users=60, requests_per_user=6, days=1)


@pytest.fixture(scope="module")
def opened(lake: Lake, log: Log) -> Opener:
    """Four splits of several windows each, whose files are one row group."""
    lake.standing("worker_tests", log, buckets=4)

    def open_dataset(**options: object) -> DedupDataset:
        values: dict[str, object] = {"batch_size": 20, "splits": 4, "buffer_bytes": 16 << 10, **options}
        return DedupDataset("worker_tests", lake.settings, **values)  # type: ignore[arg-type]

    return open_dataset


def whole(batch: DedupBatch) -> Delivered:
    """Progress, and all that the batch holds."""
    tensors = {name: tensor.numpy().tobytes() for name, tensor in batch.as_dict().items()}
    return batch.progress, {**tensors, "vocabularies": repr(batch.vocabularies).encode()}


def job(dataset: DedupDataset, here: Fellows | None) -> Job:
    return Job(
        dataset.plan, dataset.order(), dataset.world_size, dataset.ends, None, dataset.arrow_transform, 2, 1, here
    )


def worker(
    dataset: DedupDataset, number: int, here: Fellows | None, workers: int, steps: int = 0
) -> Iterator[Delivered]:
    """One of several workers, as a loader's process has it."""
    shard = Shard(dataset.rank + dataset.world_size * number, dataset.world_size * workers)
    return map(whole, BatchIterator(job(dataset, here), Cursor(dataset.position(), shard, steps)))


def beside(dataset: DedupDataset, workers: int, steps: tuple[int, ...] = (), *, share: bool = True) -> list[Delivered]:
    """An epoch of several workers in threads, in the order in which a loader takes their batches."""
    name = f"tests {next(_passes)}"
    steps = steps if steps else (0,) * workers

    def read(number: int) -> list[Delivered]:
        here = Fellows(name, 1, number, workers) if share else None
        return list(worker(dataset, number, here, workers, steps[number]))

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(read, range(workers)))
    rounds = range(max(map(len, found)) + max(steps))
    return [found[w][r - steps[w]] for r in rounds for w in range(workers) if 0 <= r - steps[w] < len(found[w])]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rows of request files that were decoded, by all processes together."""
    total = get_context("fork").Value("q", 0)
    plain = pq.ParquetFile.iter_batches

    def counting(self: pq.ParquetFile, *args: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        for batch in plain(self, *args, **options):
            if "history" in (options.get("columns") or ()):
                with total.get_lock():
                    total.value += batch.num_rows
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counting)
    return total


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_each_request_is_decoded_once_whoever_delivers_it(opened: Opener, log: Log, decoded: Any, workers: int) -> None:
    alone = [whole(batch) for batch in opened()]
    assert decoded.value == log.requests.num_rows
    decoded.value = 0
    assert beside(opened(), workers) == alone
    assert decoded.value == log.requests.num_rows
    decoded.value = 0
    assert beside(opened(), workers, share=False) == alone
    assert decoded.value > log.requests.num_rows


@pytest.mark.long
@pytest.mark.parametrize(("workers", "splits", "context"), [(2, 4, "fork"), (3, 4, "fork"), (2, 3, "spawn")])
def test_workers_of_a_loader_decode_each_request_once_in_every_pass(
    opened: Opener, log: Log, decoded: Any, workers: int, splits: int, context: str
) -> None:
    dataset, other = opened(splits=splits), opened(splits=splits)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=workers, persistent_workers=True, multiprocessing_context=context
    )
    for epoch in range(3):
        for one in (dataset, other):
            one.set_epoch(epoch)
        alone = [whole(batch) for batch in other]
        # The second is broken off: whoever is asked of it later is in the third.
        most = 5 if epoch == 1 else len(alone)
        decoded.value = 0
        assert list(map(whole, islice(loader, most + 1))) == alone[: most + 1]
        if epoch != 1:
            # What is patched does not reach spawned processes.
            assert decoded.value == (log.requests.num_rows if context == "fork" else 0)


@pytest.mark.parametrize(
    "options",
    [
        {"unit": "requests", "batch_size": 7},
        {"unit": "tokens", "tokens": "history", "batch_size": 50},
        {"oversize": "split", "batch_size": 3},
        {"shuffle": False, "drop_last": True},
        {"strings": "hash", "columns": ["item_id", "country", "category"]},
        {"histories": "shared", "together": 3},
        {"splits": 3, "mix": 1},
    ],
    ids=str,
)
def test_batches_are_those_of_one_alone(opened: Opener, options: dict[str, Any]) -> None:
    alone = [whole(batch) for batch in opened(**options)]
    assert len(alone) > 20
    assert beside(opened(**options), 3) == alone


@pytest.mark.parametrize("ends", ["repeat", "pad", "drop", "uneven"])
def test_ranks_share_among_their_own_workers(opened: Opener, ends: str) -> None:
    for rank in range(2):
        options = {"rank": rank, "world_size": 2, "ends": ends}
        assert beside(opened(**options), 2) == [whole(batch) for batch in opened(**options)]


@pytest.mark.parametrize("steps", [(3, 3), (4, 3), (3, 2, 2), (9, 8, 8)])
def test_workers_go_on_where_a_loader_counted_each(opened: Opener, log: Log, steps: tuple[int, ...]) -> None:
    everything = [whole(batch) for batch in opened()]
    assert beside(opened(), len(steps), steps) == everything[sum(steps) :]


def test_workers_go_on_behind_batches_received_in_any_order(opened: Opener) -> None:
    everything = [whole(batch)[1] for batch in opened()]
    dataset = opened()
    dataset.load_state_dict({**dataset.state_dict(), "start": 5, "done": [6, 9, 10, 17]})
    left = [tensors for n, tensors in enumerate(everything) if n >= 5 and n not in (6, 9, 10, 17)]
    assert [tensors for _, tensors in beside(dataset, 3)] == left


def test_who_gets_no_answer_makes_its_batches_itself(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [whole(batch) for batch in opened()]
    for module in (fellows, peers, desk):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(sharing, "_QUIET_SECONDS", 0.05)
    # Nobody listens; then somebody does who is in another pass.
    assert list(worker(opened(), 1, Fellows("nobody", 1, 1, 2), 2)) == alone[1::2]
    dataset = opened()
    dataset.set_epoch(1)
    other = worker(dataset, 0, Fellows("other", 1, 0, 2), 2)
    next(other)
    assert list(worker(opened(), 1, Fellows("other", 1, 1, 2), 2)) == alone[1::2]


@pytest.mark.parametrize("most", [1, 32])
def test_who_lags_behind_gets_what_is_kept_and_makes_the_rest(
    opened: Opener, log: Log, monkeypatch: pytest.MonkeyPatch, decoded: Any, most: int
) -> None:
    """One worker asks for nothing until the other has come far, or to its end."""
    alone = [whole(batch) for batch in opened(batch_size=40)]
    monkeypatch.setattr(sharing, "_MOST_WAITING", most)
    if most == 1:
        monkeypatch.setattr(sharing, "_QUIET_SECONDS", 0.05)
    decoded.value = 0
    first, second = (worker(opened(batch_size=40), w, Fellows(f"lag {most}", 1, w, 2), 2) for w in range(2))
    late = [next(second)]
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(list, first)
        wait([ahead], timeout=None if most == 1 else 0.3)
        late += second
        assert ahead.result() == alone[0::2]
    assert late == alone[1::2]
    assert (decoded.value == log.requests.num_rows) == (most == 32)


def test_a_damaged_window_is_told_by_each_worker_in_its_place(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether workers share or not, each delivers as much before it tells."""
    plain = UnitReader.read
    monkeypatch.setattr(sharing, "_QUIET_SECONDS", 0.05)

    def damaged(self: UnitReader, start: int, stop: int) -> Decoded:
        if start > 40 and self._unit.segment[-1][1] == 1:
            raise StorageError("the file cannot be read", fix="Restore it.")
        return plain(self, start, stop)

    monkeypatch.setattr(UnitReader, "read", damaged)

    def read(number: int, name: str | None) -> tuple[list[Delivered], bool]:
        here = Fellows(name, 1, number, 2) if name is not None else None
        batches, found = worker(opened(), number, here, 2), list[Delivered]()
        try:
            for batch in batches:
                found.append(batch)
        except StorageError:
            return found, True
        return found, False

    with ThreadPoolExecutor(2) as pool:
        shared = list(pool.map(read, range(2), ["damaged"] * 2))
        alone = list(pool.map(read, range(2), [None] * 2))
    assert shared == alone
    assert any(told for _, told in alone)


def test_a_hook_sees_every_window_once(opened: Opener, log: Log) -> None:
    seen = list[int]()

    def look(requests: pa.Table, impressions: pa.Table) -> tuple[pa.Table, pa.Table]:
        seen.extend(requests["request_id"].to_pylist())
        return requests, impressions

    alone = [whole(batch) for batch in opened()]
    assert beside(opened(arrow_transform=look), 3) == alone
    assert sorted(seen) == sorted(log.requests["request_id"].to_pylist())


def test_every_worker_names_the_same_makers(opened: Opener) -> None:
    dataset = opened(splits=4)
    for workers in (1, 2, 3, 4):
        for start in (0, 1, 5):
            found = makers_of(dataset.order(), Position(0, start), 0, 1, workers)
            assert sorted(set(found)) == list(range(workers))
            # Whose turn the split's next batch is makes it.
            assert all(found[(start + w) % 4] == w for w in range(workers))
