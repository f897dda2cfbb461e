"""The splits that a pass reads, and how far the others go: counted beside it, ahead of need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from dedup_storage.reader.decode.split import SplitReader
from dedup_storage.reader.order import EpochOrder, SplitOrder

__all__ = ["Splits"]

_POLL_SECONDS = 0.1


class Splits:
    """The splits of one pass.

    Args:
        order: The epoch's sequence.
        open_split: Makes a reader of a split's batches.
        stop: Whoever sets it takes no further batch.
    """

    def __init__(
        self, order: EpochOrder, open_split: Callable[[SplitOrder], SplitReader], stop: threading.Event
    ) -> None:
        self._order, self._open, self._stop = order, open_split, stop
        self._closed = False
        self._reading: dict[int, tuple[SplitOrder, SplitReader]] = {}
        self._counters: dict[int, SplitOrder] = {}
        self._last: dict[int, int] = {}
        self._counted = threading.Condition()
        self._foreign: set[int] = set()
        self._failed: Exception | None = None
        self._thread: threading.Thread | None = None

    def count_beside(self, splits: Iterable[int]) -> None:
        """Begin to count the batches of splits that this pass does not read, in a thread."""
        self._foreign = {split for split in splits if split not in self._order.counts}
        if self._foreign:
            self._thread = threading.Thread(target=self._work, name="dedup-count", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            for split in sorted(self._foreign):
                planned = self._order.split(split)
                while planned.advance():
                    planned.drop()
                    if self._over:
                        return
                self._tell(split, planned)
        except Exception as error:  # noqa: BLE001 - handed to who asks for a count
            with self._counted:
                self._failed = error
                self._counted.notify_all()

    @property
    def _over(self) -> bool:
        return self._closed or self._stop.is_set()

    def _tell(self, split: int, planned: SplitOrder) -> None:
        with self._counted:
            self._order.counts[split] = planned.num_planned
            self._counted.notify_all()

    def has(self, split: int, number: int) -> bool:
        """Whether a split has a batch of that number."""
        known = self._order.surely(split, number)
        if known is not None:
            return known
        if split in self._reading:
            planned, kept = self._reading[split][0], True
        elif split in self._foreign:
            return self._wait(split, number)
        else:
            planned, kept = self._counters.setdefault(split, self._order.split(split)), False
        found = planned.has(number, keep=kept)
        if not found:
            self._tell(split, planned)
        return found

    def _wait(self, split: int, number: int) -> bool:
        with self._counted:
            while split not in self._order.counts and self._failed is None and not self._over:
                self._counted.wait(_POLL_SECONDS)
            if self._failed is not None:
                raise self._failed
            # Who has stopped the pass takes no further batch.
            return number < self._order.counts.get(split, 0)

    def reader(self, split: int, number: int) -> SplitReader:
        """The reader of a split for a batch, which may lie before the last one."""
        if number < self._last.get(split, 0):
            self._reading.pop(split)[1].close()
        self._last[split] = number
        return self._opened(split)

    def prepare(self, split: int, number: int) -> None:
        """Begin to decode what a split's first batch in this pass needs."""
        if split not in self._reading:
            self._opened(split).prepare(number)

    def _opened(self, split: int) -> SplitReader:
        if split not in self._reading:
            planned = self._order.split(split)
            self._reading[split] = planned, self._open(planned)
            self._counters.pop(split, None)
        return self._reading[split][1]

    def close(self) -> None:
        """Let the files go, and end the counting."""
        self._closed = True
        for _, reader in self._reading.values():
            reader.close()
        if self._thread is not None:
            self._thread.join()
