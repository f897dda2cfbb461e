"""One pass over a shard's batches, made ahead by a thread."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch.utils.data import get_worker_info

from dedup_storage.errors import StateMismatchError, StorageError
from dedup_storage.reader.batch import DedupBatch, Progress
from dedup_storage.reader.decode.split import ArrowTransform
from dedup_storage.reader.epoch.ahead import Ahead
from dedup_storage.reader.epoch.splits import Splits
from dedup_storage.reader.epoch.turns import Shard, Turn, splits_in_turn, turns
from dedup_storage.reader.open.plan import ReadPlan
from dedup_storage.reader.options import Ends
from dedup_storage.reader.order import EpochOrder
from dedup_storage.reader.state import Position, ReaderState
from dedup_storage.words import counted

__all__ = ["BatchIterator", "Cursor", "Job", "Shard", "default_threads"]

_MOST_THREADS = 8


def default_threads(workers: int) -> int:
    """Threads that decode in each of several workers: the processors that this process may use, shared out."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(processors // max(workers, 1), 1), _MOST_THREADS)


@dataclass
class Cursor:
    """What an iterator has handed out; kept by the dataset after the iterator is gone.

    Attributes:
        base: Where it began.
        shard: Which batches it is for.
        steps: Batches handed out.
        loose: Whether they reach the trainer in any order among those of other workers.
    """

    base: Position
    shard: Shard
    steps: int = 0
    loose: bool = False

    def state(self, plan: ReadPlan) -> dict[str, Any]:
        """As JSON values."""
        return ReaderState(
            pins=plan.pins,
            base=self.base,
            shard=self.shard.index,
            shards=self.shard.count,
            steps=self.steps,
            opened=plan.opened,
            loose=self.loose,
        ).to_dict()


@dataclass(frozen=True)
class Job:
    """What an iterator makes batches of.

    Attributes:
        plan: The dataset's plan.
        order: The epoch's sequence.
        world_size: Ranks that share it.
        ends: What happens at the end of the last round.
        transform: Called with every batch.
        arrow_transform: Called with the tables of every window.
        prefetch: Batches to make ahead; 0 starts no thread.
        threads: Threads that decode.
    """

    plan: ReadPlan
    order: EpochOrder
    world_size: int
    ends: Ends
    transform: Callable[[Any], Any] | None = None
    arrow_transform: ArrowTransform | None = None
    prefetch: int = 0
    threads: int = 1

    def batches(self, cursor: Cursor, stop: threading.Event) -> Iterator[tuple[Any, bool]]:
        """The shard's batches behind the cursor's, until ``stop`` is set; and whether each is known to be the last.

        Where no batch is made ahead, nobody knows before the next one is asked for.
        """
        order, shard = self.order, cursor.shard
        pool = ThreadPoolExecutor(self.threads, "dedup-decode") if self.prefetch > 0 else None
        splits = Splits(order, lambda split: self.plan.split_reader(split, self.arrow_transform, pool), stop)
        if pool is not None and shard.count > 1:
            splits.count_beside(set(range(order.options.splits)) - splits_in_turn(order, cursor.base, shard))
        waiting = turns(order, cursor.base, shard, self.world_size, self.ends, splits.has)
        coming = islice(waiting, cursor.steps, None)
        ahead, upcoming = 1, deque[Turn]()
        try:
            while not stop.is_set():
                for turn in islice(coming, max(ahead - len(upcoming), 0)):
                    upcoming.append(turn)
                    if pool is not None and turn.split >= 0:
                        splits.prepare(turn.split, turn.number)
                if not upcoming:
                    return
                # No name for it here: a batch is not kept until the next is asked for.
                yield self._finish(self._batch(splits, upcoming.popleft())), ahead > 1 and not upcoming
                # The first batch waits for nothing but itself.
                ahead = self.threads + 1 if pool is not None else 1
        finally:
            splits.close()
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def _batch(self, splits: Splits, turn: Turn) -> DedupBatch:
        progress = Progress(self.order.epoch, turn.in_epoch, turn.place, max(turn.split, 0), turn.repeated)
        if turn.split < 0:
            return self.plan.empty_batch(progress, self.arrow_transform)
        return splits.reader(turn.split, turn.number).batch(turn.number, progress)

    def _finish(self, batch: Any) -> Any:
        return batch if self.transform is None else self.transform(batch)


def _num_bytes(made: tuple[DedupBatch, bool]) -> int:
    return made[0].num_bytes


class BatchIterator(Iterator[Any]):
    """Iterator over one shard; counts a batch when it is handed out, not when it is made.

    Args:
        job: What batches are made of.
        cursor: Where to begin; moved with every batch handed out.
        ended: Called with the epoch once its last batch was handed out.
        loaded: Called with the position that a loader's state began at.
    """

    def __init__(
        self,
        job: Job,
        cursor: Cursor,
        ended: Callable[[int], None] | None = None,
        loaded: Callable[[Position], None] | None = None,
    ) -> None:
        self._job, self.cursor, self._ended, self._loaded = job, cursor, ended, loaded
        self._stop = threading.Event()
        self._source: Iterator[Any] | None = None
        self._last: Progress | None = None

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Any:
        if self._source is None:
            batches = self._job.batches(Cursor(self.cursor.base, self.cursor.shard, self.cursor.steps), self._stop)
            ahead = self._job.prefetch
            # What a transform gives may be anything, and how long it takes; a worker's batches wait in shared memory.
            alone = self._job.transform is not None or get_worker_info() is not None
            size = None if alone else _num_bytes
            self._source = Ahead(batches, self._stop, ahead, size) if ahead > 0 else batches
        try:
            batch, last = next(self._source)
        except StorageError as error:
            self.close()
            raise self._located(error) from error
        except StopIteration:
            if self._ended is not None and not self._stop.is_set():
                self._ended(self._job.order.epoch)
            self.close()
            raise
        except BaseException:
            self.close()
            raise
        self.cursor.steps += 1
        if last and self._ended is not None and get_worker_info() is None:
            # Who takes as many steps as there are never asks for the end. What a worker hands out is not received yet.
            self._ended(self._job.order.epoch)
        self._last = getattr(batch, "progress", None)
        return batch

    def _located(self, error: StorageError) -> StorageError:
        """The error, with the batch that had been delivered before it."""
        count = counted(self.cursor.steps, "batch", "was")
        delivered = f"{count} delivered before it by this reader in epoch {self.cursor.base.epoch}"
        if self._last is not None:
            delivered += f", the last was batch {self._last.index}"
        what = f"{error.what}; {delivered}"
        return StorageError(what, expected=error.expected, got=error.got, fix=error.fix)

    def close(self) -> None:
        """Stop making batches ahead and let the files go; the iterator is at its end."""
        self._stop.set()
        if isinstance(self._source, Ahead):
            self._source.close()
        self._source = iter(())

    def __del__(self) -> None:
        self._stop.set()

    def state_dict(self) -> dict[str, Any]:
        """Batches handed out so far; starts nothing."""
        return self.cursor.state(self._job.plan)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind the batches that the state counts; used by torchdata's StatefulDataLoader.

        A state of another rank's worker of the same number stands for this one's, all ranks being in step.

        Raises:
            StateMismatchError: the state belongs to another reader, or to another number of ranks or workers.
        """
        read, plan, own = ReaderState.from_dict(state), self._job.plan, self.cursor.shard
        read.check(plan.pins, plan.opened)
        ranks = self._job.world_size
        if read.shards != own.count or read.shard // ranks != own.index // ranks:
            raise StateMismatchError(
                "the loader's state was saved with another number of ranks or workers",
                expected=f"{counted(ranks, 'rank')} x {counted(own.count // ranks, 'worker')}",
                got=f"{counted(read.shards, 'share')} of the batches",
                fix="Join the states with merge_states and give the result to DedupDataset.load_state_dict.",
            )
        self.cursor.base, self.cursor.steps = read.base, read.steps
        if self._loaded is not None:
            self._loaded(read.base)
        if self._job.order.epoch != read.base.epoch:
            order = self._job.plan.epoch(read.base.epoch)
            self._job = Job(**{**self._job.__dict__, "order": order})
        self._source = None
