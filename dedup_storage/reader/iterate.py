"""One pass over a shard's batches, made ahead by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dedup_storage.reader.batch import Progress
from dedup_storage.reader.decode import ArrowTransform, SplitReader
from dedup_storage.reader.options import Ends
from dedup_storage.reader.order import EpochOrder
from dedup_storage.reader.plan import ReadPlan
from dedup_storage.reader.state import Position, ReaderState

__all__ = ["BatchIterator", "Shard"]


@dataclass(frozen=True)
class Shard:
    """Batches ``index``, ``index + count``, ... of those that are left."""

    index: int
    count: int

    def steps(self, left: int, world_size: int, ends: Ends) -> int:
        """Batches of this shard when ``left`` are left in all.

        Every rank has equally many unless ``ends`` is ``uneven``.
        """
        if ends is Ends.DROP:
            left -= left % world_size
        elif ends is not Ends.UNEVEN:
            left += -left % world_size
        return max(0, -(-(left - self.index) // self.count))


@dataclass
class _Failure:
    error: BaseException


_END = object()


class BatchIterator(Iterator[Any]):
    """Iterator over one shard; counts a batch when it is handed out, not when it is made.

    Args:
        plan: The dataset's plan.
        order: The epoch's sequence.
        base: Where the iteration begins.
        shard: Which batches of those that are left.
        world_size: Ranks that share them.
        ends: What happens at the end of the last round.
        transform: Called with every batch.
        arrow_transform: Called with the tables of every window.
        prefetch: Batches to make ahead.
    """

    def __init__(
        self,
        *,
        plan: ReadPlan,
        order: EpochOrder,
        base: Position,
        shard: Shard,
        world_size: int,
        ends: Ends,
        transform: Callable[[Any], Any] | None,
        arrow_transform: ArrowTransform | None,
        prefetch: int,
    ) -> None:
        self.base, self.shard = base, shard
        self._plan, self._order, self._world_size, self._ends = plan, order, world_size, ends
        self._transform, self._arrow_transform, self._prefetch = transform, arrow_transform, prefetch
        self._steps = 0
        self._begin_at = 0
        self._source: Iterator[Any] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Any:
        if self._source is None:
            self._source = self._ahead() if self._prefetch > 0 else self._batches()
        try:
            batch = next(self._source)
        except BaseException:
            self.close()
            self._source = iter(())
            raise
        self._steps += 1
        return batch

    def close(self) -> None:
        """Stop making batches ahead and let the files go."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)
            self._thread = None

    def __del__(self) -> None:
        self._stop.set()

    # -- state --------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Batches handed out so far; starts nothing."""
        return ReaderState(self._plan.pins, self.base, self.shard.index, self.shard.count, self._steps).to_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batches that the state counts; used by torchdata's StatefulDataLoader."""
        read = ReaderState.from_dict(state)
        read.check(self._plan.pins)
        self.base, self.shard = read.base, Shard(read.shard, read.shards)
        self._steps = self._begin_at = read.steps
        if self._order.epoch != self.base.epoch:
            self._order = self._plan.epoch(self.base.epoch)
        self._source = None

    # -- batches ------------------------------------------------------------------------------------------------
    def _batches(self) -> Iterator[Any]:
        order, shard = self._order, self.shard
        left = self.base.remaining(len(order))
        readers: dict[int, SplitReader] = {}
        try:
            for step in range(self._begin_at, shard.steps(len(left), self._world_size, self._ends)):
                if self._stop.is_set():
                    return
                place = shard.index + step * shard.count
                repeated = place >= len(left)
                if repeated and self._ends is Ends.PAD:
                    yield self._finish(
                        self._plan.empty_batch(Progress(order.epoch, len(order), place, 0, True), self._arrow_transform)
                    )
                    continue
                index = int((place - len(left)) % len(order)) if repeated else int(left[place])
                split, number = (int(v) for v in order.sequence[index])
                if split not in readers:
                    readers[split] = self._plan.split_reader(order, split, self._arrow_transform)
                progress = Progress(order.epoch, index, place, split, repeated)
                yield self._finish(readers[split].batch(number, progress))
        finally:
            for reader in readers.values():
                reader.close()

    def _finish(self, batch: Any) -> Any:
        return batch if self._transform is None else self._transform(batch)

    def _ahead(self) -> Iterator[Any]:
        made: queue.Queue[Any] = queue.Queue(maxsize=self._prefetch)
        stop = self._stop

        def put(item: Any) -> bool:
            while not stop.is_set():
                try:
                    made.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def work() -> None:
            try:
                for batch in self._batches():
                    if not put(batch):
                        return
                put(_END)
            except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
                put(_Failure(error))

        self._thread = threading.Thread(target=work, name="dedup-reader", daemon=True)
        self._thread.start()
        while True:
            item = made.get()
            if item is _END:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item
