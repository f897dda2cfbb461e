"""The workers of one loader, and how they speak with each other: over sockets that have no name in any file system.

Both ends see that the other belongs to the same user. Whoever gets no answer makes a batch itself, so that nothing
rests on an answer but what a batch costs.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import sys
import threading
from dataclasses import dataclass

from torch.utils.data import get_worker_info

__all__ = [
    "ANSWER", "HELLO", "LOOK_SECONDS", "PATIENCE_SECONDS", "REQUEST", "Fellows", "address_of", "fellows", "fill",
    "is_own", "read",
]  # fmt: skip

LOOK_SECONDS = 0.1
# Workers begin a pass one after the other, spawned ones seconds apart. One that reads nothing is not waited for longer.
PATIENCE_SECONDS = 5.0
# Who asks: the length of what names its pass. What is asked: place, split and number. What comes: lengths of a batch's
# description and of its buffer; nothing of the first where the batch is not to be had.
HELLO, REQUEST, ANSWER, _OWNER = struct.Struct("<I"), struct.Struct("<3q"), struct.Struct("<2Q"), struct.Struct("3i")


@dataclass(frozen=True)
class Fellows:
    """The workers of one rank's loader, in one pass.

    Attributes:
        name: The loader's, which no other has.
        number: How many passes this one is, the same in each of them.
        worker: This one.
        workers: How many they are.
    """

    name: str
    number: int
    worker: int
    workers: int


def fellows(token: int, number: int) -> Fellows | None:
    """The workers beside this one; ``None`` where there are none, or this system has no sockets of that kind.

    Args:
        token: The dataset's, which all of them have.
        number: Which pass of this worker it is.
    """
    worker = get_worker_info()
    if worker is None or worker.num_workers < 2 or sys.platform != "linux":
        return None
    # Workers of one loader have one parent, and seeds one beside the other.
    text = f"{token} {os.getppid()} {worker.seed - worker.id}"
    return Fellows(hashlib.sha256(text.encode()).hexdigest()[:32], number, worker.id, worker.num_workers)


def address_of(name: str, worker: int) -> str:
    """Where a worker of a loader listens: a name that ends with its process, and lies in no folder."""
    return f"\0dedup-reader-{name}-{worker}"


def is_own(connection: socket.socket) -> bool:
    """Whether the other end is a process of this user."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _OWNER.size)
    return bool(_OWNER.unpack(found)[1] == os.geteuid())


def fill(connection: socket.socket, view: memoryview, stop: threading.Event | None = None) -> None:
    """Read as many bytes as there is room for.

    Raises:
        OSError: the other end is gone, or nobody wants the bytes any more.
    """
    while len(view):
        try:
            count = connection.recv_into(view)
        except TimeoutError:
            if stop is not None and stop.is_set():
                raise
            continue
        if count == 0:
            raise ConnectionResetError("the other worker is gone")
        view = view[count:]


def read(connection: socket.socket, count: int, stop: threading.Event | None = None) -> bytes:
    """As many bytes as are asked for; see ``fill``."""
    found = bytearray(count)
    fill(connection, memoryview(found), stop)
    return bytes(found)
