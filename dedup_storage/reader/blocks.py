"""Memory that a batch is packed into: in a worker, blocks that its main process maps once and gives back.

A batch made in a worker reaches the main process without a copy when it lies in memory that both have mapped. To make
such memory, send its descriptor, map it and fault in its pages costs more than packing a small batch, so a worker keeps
its blocks. The first bytes of a block say whether the main process still holds the batch in it; these are the only
words between the two. Blocks have no name in any file system: nothing is left behind when a process is killed.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Callable
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from dedup_storage.errors import UsageError

__all__ = ["Sent", "allocate", "receive", "send"]

Octets = npt.NDArray[np.uint8]
_HEADER, _LEAST_BYTES = 64, 1 << 16
# A trainer that keeps more batches than this at hand gets the others in memory of their own.
_MOST_BLOCKS = 32
# What a block's header says: nobody has it, the main process has it, or it had it when it was forked.
_FREE, _SENT, _LEFT = 0, 1, 2


class Sent(NamedTuple):
    """A batch's buffer on its way to the main process.

    Attributes:
        worker, block, serial: Which block of which worker, and which memory by that number.
        num_bytes: Bytes of the batch.
        capacity: Bytes of the block.
        handle: Its descriptor, with the first batch in it alone.
    """

    worker: int
    block: int
    serial: int
    num_bytes: int
    capacity: int
    handle: Any


class _Memory:
    """One mapped block."""

    def __init__(self, descriptor: int, capacity: int) -> None:
        self.map = mmap.mmap(descriptor, capacity)
        self.header = np.frombuffer(self.map, dtype=np.int64, count=1)
        self.address = int(self.header.ctypes.data) + _HEADER
        self._watch: weakref.ref[Octets] | None = None

    def lend(self, num_bytes: int, returned: Callable[[], None]) -> Octets:
        """Its first bytes; ``returned`` is called once nothing looks at them any more."""
        octets: Octets = np.frombuffer(self.map, dtype=np.uint8, count=num_bytes, offset=_HEADER)

        # One at a time: the block is lent again only when this was called.
        self._watch = weakref.ref(octets, lambda _: returned())
        return octets


class _Block:
    """A block of this worker.

    Attributes:
        lent: Whether a batch that this process knows lies in it.
        known: Whether the main process has mapped it.
    """

    def __init__(self, serial: int, num_bytes: int) -> None:
        self.serial, self.lent, self.known = serial, False, False
        # What is not touched takes no memory.
        self.capacity = max(1 << (num_bytes + _HEADER - 1).bit_length(), _LEAST_BYTES)
        self.descriptor = os.memfd_create("dedup-batch", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        os.ftruncate(self.descriptor, self.capacity)
        self.memory = _Memory(self.descriptor, self.capacity)

    def returned(self) -> None:
        """No batch that this process knows lies in it any more."""
        self.lent = False

    @property
    def state(self) -> int:
        """What the header says."""
        return int(self.memory.header[0])


class _Blocks:
    """The blocks of this process."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._serial = 0
        self._lock = threading.Lock()

    def lend(self, num_bytes: int) -> Octets | None:
        """Memory for a batch; ``None`` where too many are at hand, or the system makes no more."""
        with self._lock:
            free = (p for p, b in enumerate(self._blocks) if not b.lent and b.state != _SENT)
            place = next(free, len(self._blocks))
            block = self._blocks[place] if place < len(self._blocks) else None
            if block is None or block.capacity < num_bytes + _HEADER or block.state == _LEFT:
                if place == _MOST_BLOCKS:
                    return None
                self._serial += 1
                try:
                    block = _Block(self._serial, num_bytes)
                except OSError:
                    # No descriptors left, or a sandbox that forbids it: the batch goes as any tensor goes.
                    return None
                self._blocks[place : place + 1] = [block]
            block.lent = True
        return block.memory.lend(num_bytes, block.returned)

    def send(self, buffer: Tensor) -> Sent | None:
        """See ``send``."""
        address = buffer.data_ptr()
        for place, block in enumerate(self._blocks):
            if block.lent and block.memory.address == address:
                if block.state != _FREE:
                    # Somebody has a batch in the same memory: this one travels alone.
                    return None
                handle = None if block.known else DupFd(block.descriptor)
                block.known = True
                block.memory.header[0] = _SENT
                return Sent(os.getpid(), place, block.serial, buffer.numel(), block.capacity, handle)
        return None


class _Received:
    """Blocks of workers that this process has mapped, and batches in them that it still holds."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._mapped: dict[tuple[int, int], tuple[int, _Memory]] = {}
        self._held: dict[int, _Memory] = {}

    def buffer(self, sent: Sent) -> Octets:
        """See ``receive``."""
        key = (sent.worker, sent.block)
        if sent.handle is not None:
            if all(worker != sent.worker for worker, _ in self._mapped):
                self._forget_the_dead()
            descriptor = sent.handle.detach()
            try:
                self._mapped[key] = sent.serial, _Memory(descriptor, sent.capacity)
            finally:
                os.close(descriptor)
        serial, memory = self._mapped.get(key, (None, None))
        if memory is None or serial != sent.serial:
            raise UsageError(
                "a batch that a worker made lies in memory that this process has not mapped",
                expected="one process that takes all batches of a worker, as a DataLoader does",
                got=f"a batch of worker process {sent.worker} in process {self.process}",
                fix="Clone what is sent elsewhere: batch.buffer.clone().",
            )
        self._held[id(memory)] = memory

        def returned(process: int = self.process) -> None:
            # A process that was forked meanwhile says nothing: its parent may still look at the batch.
            if os.getpid() == process:
                state = _FREE if self._held.pop(id(memory), None) is not None else _LEFT
                memory.header[0] = state

        return memory.lend(sent.num_bytes, returned)

    def _forget_the_dead(self) -> None:
        """Let go the blocks of workers that have ended; batches in them stay."""
        for worker in {worker for worker, _ in self._mapped}:
            try:
                os.kill(worker, 0)
            except ProcessLookupError:
                self._mapped = {key: found for key, found in self._mapped.items() if key[0] != worker}
            except PermissionError:
                continue

    def leave(self) -> None:
        """This process is being forked: what it holds, its child will hold for good."""
        self._held.clear()


_own: _Blocks | None = None
_received: _Received | None = None


def _before_fork() -> None:
    if _received is not None:
        _received.leave()


def _after_fork() -> None:
    global _own, _received
    _own = _received = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def allocate(num_bytes: int) -> tuple[Tensor, Octets]:
    """(num_bytes,) uint8, not initialised, as a tensor and as an array over the same memory.

    In a worker it lies where the main process can map it.
    """
    global _own
    if get_worker_info() is None or num_bytes == 0:
        tensor = torch.empty(num_bytes, dtype=torch.uint8)
        return tensor, tensor.numpy()
    octets = None
    if hasattr(os, "memfd_create"):
        if _own is None:
            _own = _Blocks()
        octets = _own.lend(num_bytes)
    if octets is not None:
        return torch.from_numpy(octets), octets
    storage = torch.UntypedStorage._new_shared(num_bytes)
    tensor = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (num_bytes,), (1,))
    return tensor, tensor.numpy()


def send(buffer: Tensor) -> Sent | None:
    """What stands for a buffer on its way to the main process; ``None`` if it lies in no block of this worker."""
    return _own.send(buffer) if _own is not None and buffer.device.type == "cpu" else None


def receive(sent: Sent) -> Tensor:
    """The buffer that was sent, in place; its block is free again once no tensor looks at it.

    Raises:
        UsageError: the block's first batch went to another process.
    """
    global _received
    if _received is None:
        _received = _Received()
    return torch.from_numpy(_received.buffer(sent))
