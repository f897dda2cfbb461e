"""Batches made ahead by a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any

__all__ = ["Ahead"]


@dataclass(frozen=True)
class _Failure:
    error: BaseException


_END = object()
_LOOK_SECONDS = 1.0
# Small batches go over several at a time, of no more bytes together; none is added once the first has waited so long.
_TOGETHER, _TOGETHER_BYTES, _TOGETHER_SECONDS = 8, 1 << 20, 0.001


class Ahead(Iterator[Any]):
    """Makes batches in a thread that knows nothing of the iterator, so that dropping the iterator ends it.

    Batches come through one queue, permissions to make another go back through a second: both are handed over without
    Python's own locks, which cost several times as much as packing a small batch. To wake a thread costs as much as to
    pack one, so small batches are handed over several at a time.

    Args:
        source: Makes the batches.
        stop: Set by whoever wants no more of them.
        most: Batches to make ahead; small ones count together as one.
        size: Bytes of what the source gives; ``None``: each is handed over by itself, however small.
    """

    def __init__(
        self, source: Iterator[Any], stop: threading.Event, most: int, size: Callable[[Any], int] | None
    ) -> None:
        self._ready: deque[Any] = deque()
        self._made: SimpleQueue[list[Any]] = SimpleQueue()
        self._room: SimpleQueue[bool] = SimpleQueue()
        # What comes behind the first is begun once somebody has the first: it would only be in the way.
        self._room.put(True)
        self._grants = most
        self.thread = threading.Thread(
            target=_work, args=(source, stop, self._made, self._room, size), name="dedup-reader", daemon=True
        )
        self.thread.start()

    def __next__(self) -> Any:
        while not self._ready:
            try:
                self._ready.extend(self._made.get(timeout=_LOOK_SECONDS))
                for _ in range(self._grants):
                    self._room.put(True)
                self._grants = 1
            except Empty:
                # A process that was forked from this one has the queues and not the thread.
                if not self.thread.is_alive() and self._made.empty():
                    raise StopIteration from None
        item = self._ready.popleft()
        if item is _END:
            raise StopIteration
        if isinstance(item, _Failure):
            raise item.error
        return item

    def close(self) -> None:
        """Let the thread end, and wait for it; it is told by ``stop`` too."""
        self._room.put(False)
        self.thread.join(timeout=10)

    def __del__(self) -> None:
        self._room.put(False)


def _work(
    source: Iterator[Any],
    stop: threading.Event,
    made: SimpleQueue[list[Any]],
    room: SimpleQueue[bool],
    size: Callable[[Any], int] | None,
) -> None:
    most, batches = 1, list[Any]()
    try:
        while room.get() and not stop.is_set():
            _make(source, batches, most)
            # The list is the consumer's now. The first batch waits for no other.
            handed, batches = batches, []
            made.put(handed)
            if handed[-1] is _END:
                break
            most = 1 if size is None else min(_TOGETHER, _TOGETHER_BYTES // max(size(handed[0]), 1))
            del handed
    except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
        made.put([*batches, _Failure(error)])
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()
        made.put([_END])


def _make(source: Iterator[Any], batches: list[Any], most: int) -> None:
    """Add at least one batch to those that are made, and what ends them."""
    until = None
    while until is None or (len(batches) < most and perf_counter() < until):
        batches.append(next(source, _END))
        if batches[-1] is _END:
            return
        until = until if until is not None else perf_counter() + _TOGETHER_SECONDS
