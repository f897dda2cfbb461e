"""Batches that a worker asks the others of its loader for."""

from __future__ import annotations

import json
import pickle
import socket
import threading
from time import monotonic
from typing import Any

from dedup_storage.reader.batch import DedupBatch
from dedup_storage.reader.blocks import allocate
from dedup_storage.reader.epoch.fellows import (
    ANSWER,
    HELLO,
    LOOK_SECONDS,
    PATIENCE_SECONDS,
    REQUEST,
    Fellows,
    address_of,
    fill,
    is_own,
    read,
)

__all__ = ["Peers"]


class Peers:
    """The other workers, asked for batches of one pass by one thread.

    Args:
        here: The workers.
        what: What the pass reads.
        stop: Whoever sets it takes no further batch.
    """

    def __init__(self, here: Fellows, what: str, stop: threading.Event) -> None:
        self._here, self._what, self._stop = here, what, stop
        # ``None``: one that does not answer.
        self._lines: dict[int, socket.socket | None] = {}
        self._patience = PATIENCE_SECONDS

    def ask(self, worker: int, place: int, split: int, number: int) -> bool:
        """Ask a worker for a batch, to be received later, in the order of asking; whether it is there."""
        if worker not in self._lines:
            self._lines[worker] = self._connect(worker)
        line = self._lines[worker]
        try:
            if line is not None:
                line.sendall(REQUEST.pack(place, split, number))
            return line is not None
        except OSError:
            self._drop(worker)
            return False

    def receive(self, worker: int) -> DedupBatch | None:
        """What was asked for; ``None`` where this worker must make it itself."""
        line = self._lines[worker]
        if line is None:
            return None
        try:
            described, num_bytes = ANSWER.unpack(read(line, ANSWER.size, self._stop))
            if not described:
                return None
            # Of a process of this user, as whatever a loader's workers send.
            fields: dict[str, Any] = pickle.loads(read(line, described, self._stop))  # noqa: S301
            buffer, octets = allocate(num_bytes)
            fill(line, octets.data, self._stop)
            return DedupBatch(buffer=buffer, **fields)
        except OSError:
            self._drop(worker)
            return None

    def _connect(self, worker: int) -> socket.socket | None:
        """A connection; one that does not listen yet is waited for."""
        begin = monotonic()
        while not self._stop.is_set():
            line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                line.settimeout(LOOK_SECONDS)
                line.connect(address_of(self._here.name, worker))
                if is_own(line):
                    hello = json.dumps([self._here.number, self._what, self._here.worker]).encode()
                    line.sendall(HELLO.pack(len(hello)) + hello)
                    return line
            except OSError:
                pass
            line.close()
            if monotonic() - begin > self._patience:
                break
            self._stop.wait(LOOK_SECONDS / 2)
        # Several that are not there are not waited for one after the other.
        self._patience = max(self._patience - (monotonic() - begin), 0.0)
        return None

    def _drop(self, worker: int) -> None:
        line = self._lines[worker]
        if line is not None:
            line.close()
        self._lines[worker] = None

    def close(self) -> None:
        """Ask for nothing more."""
        for worker in self._lines:
            self._drop(worker)
