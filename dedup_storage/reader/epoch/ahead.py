"""Batches made ahead by a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

__all__ = ["Ahead"]


@dataclass(frozen=True)
class _Failure:
    error: BaseException


_END = object()
_LOOK_SECONDS = 1.0


class Ahead(Iterator[Any]):
    """Makes batches in a thread that knows nothing of the iterator, so that dropping the iterator ends it.

    Batches come through one queue, permissions to make another go back through a second: both are handed over without
    Python's own locks, which cost several times as much as packing a small batch.

    Args:
        source: Makes the batches.
        stop: Set by whoever wants no more of them.
        most: Batches to make ahead.
    """

    def __init__(self, source: Iterator[Any], stop: threading.Event, most: int) -> None:
        self._made: SimpleQueue[Any] = SimpleQueue()
        self._room: SimpleQueue[bool] = SimpleQueue()
        for _ in range(most):
            self._room.put(True)
        self.thread = threading.Thread(
            target=_work, args=(source, stop, self._made, self._room), name="dedup-reader", daemon=True
        )
        self.thread.start()

    def __next__(self) -> Any:
        while True:
            try:
                item = self._made.get(timeout=_LOOK_SECONDS)
                break
            except Empty:
                # A process that was forked from this one has the queues and not the thread.
                if not self.thread.is_alive() and self._made.empty():
                    raise StopIteration from None
        if item is _END:
            raise StopIteration
        if isinstance(item, _Failure):
            raise item.error
        self._room.put(True)
        return item

    def close(self) -> None:
        """Let the thread end, and wait for it; it is told by ``stop`` too."""
        self._room.put(False)
        self.thread.join(timeout=10)

    def __del__(self) -> None:
        self._room.put(False)


def _work(source: Iterator[Any], stop: threading.Event, made: SimpleQueue[Any], room: SimpleQueue[bool]) -> None:
    try:
        while room.get() and not stop.is_set():
            batch = next(source, _END)
            made.put(batch)
            if batch is _END:
                break
    except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
        made.put(_Failure(error))
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()
        made.put(_END)
