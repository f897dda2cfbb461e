"""Where a worker is asked for batches by the others of its loader; it listens as long as the process lives."""

from __future__ import annotations

import json
import os
import pickle
import socket
import threading
from time import monotonic
from typing import Protocol

from dedup_storage.reader.batch import DedupBatch
from dedup_storage.reader.epoch.fellows import (
    ANSWER,
    HELLO,
    LOOK_SECONDS,
    PATIENCE_SECONDS,
    REQUEST,
    Fellows,
    address_of,
    is_own,
    read,
)

__all__ = ["Giver", "close_desk", "open_desk"]


class Giver(Protocol):
    """Makes batches for other workers, in one pass."""

    def give(self, worker: int, place: int, split: int, number: int) -> DedupBatch | None:
        """A batch that is another worker's turn; ``None`` where it must make it itself."""

    def given(self) -> None:
        """What was given last has gone out."""

    def gone(self, worker: int) -> None:
        """A worker asks for nothing more."""


class _Desk:
    """Where this worker is asked, by workers of one loader."""

    def __init__(self, name: str, worker: int) -> None:
        self._changed = threading.Condition()
        self._here: tuple[int, str, Giver] | None = None
        self._newest = 0
        self.listens = True
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(address_of(name, worker))
            self._socket.listen(64)
        except OSError:
            self._socket.close()
            raise
        threading.Thread(target=self._listen, name="dedup-desk", daemon=True).start()

    def open(self, number: int, what: str, giver: Giver) -> None:
        """Answer for a pass, and for no earlier one."""
        with self._changed:
            self._here, self._newest = (number, what, giver), number
            self._changed.notify_all()

    def close(self, giver: Giver) -> None:
        """Answer for a pass no more."""
        with self._changed:
            if self._here is not None and self._here[2] is giver:
                self._here = None
                self._changed.notify_all()

    def _listen(self) -> None:
        # Whoever is not answered must see that: without room for another connection or thread, the socket is closed.
        with self._socket:
            try:
                while True:
                    connection, _ = self._socket.accept()
                    threading.Thread(target=self._answer, args=(connection,), name="dedup-give", daemon=True).start()
            except (OSError, RuntimeError):
                self.listens = False

    def _giver(self, number: int, what: str) -> Giver | None:
        """Who answers for a pass; one that this worker has not begun yet is waited for."""
        until = monotonic() + PATIENCE_SECONDS
        with self._changed:
            while self._newest < number and monotonic() < until:
                self._changed.wait(LOOK_SECONDS)
            return self._here[2] if self._here is not None and self._here[:2] == (number, what) else None

    def _answer(self, connection: socket.socket) -> None:
        giver, worker = None, -1
        with connection:
            try:
                if not is_own(connection):
                    return
                number, what, worker = json.loads(read(connection, *HELLO.unpack(read(connection, HELLO.size))))
                giver = self._giver(number, what)
                while giver is not None:
                    _give(connection, giver, worker)
            except (OSError, ValueError):
                return
            finally:
                if giver is not None:
                    giver.gone(worker)


def _give(connection: socket.socket, giver: Giver, worker: int) -> None:
    """Answer one request."""
    batch = giver.give(worker, *REQUEST.unpack(read(connection, REQUEST.size)))
    try:
        if batch is None:
            connection.sendall(ANSWER.pack(0, 0))
            return
        fields = {name: value for name, value in vars(batch).items() if name != "buffer"}
        description, octets = pickle.dumps(fields), batch.buffer.numpy()
        connection.sendall(ANSWER.pack(len(description), len(octets)) + description)
        connection.sendall(octets.data)
    finally:
        giver.given()


_desks: dict[tuple[str, int], _Desk] = {}
if hasattr(os, "register_at_fork"):
    # A child has the sockets and not the threads.
    os.register_at_fork(after_in_child=_desks.clear)


def open_desk(here: Fellows, what: str, giver: Giver) -> bool:
    """Let other workers ask for batches of a pass; whether they can.

    Args:
        here: The workers.
        what: What the pass reads: another worker's must be the same.
        giver: Makes the batches.
    """
    key = here.name, here.worker
    if key not in _desks or not _desks[key].listens:
        try:
            _desks[key] = _Desk(*key)
        except (OSError, RuntimeError):
            # A sandbox that forbids sockets, or no room for one or for its thread.
            return False
    _desks[key].open(here.number, what, giver)
    return True


def close_desk(here: Fellows, giver: Giver) -> None:
    """Answer for a pass no more."""
    desk = _desks.get((here.name, here.worker))
    if desk is not None:
        desk.close(giver)
