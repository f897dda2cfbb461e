"""Lengths of units whose keys some process of this machine has read, where its forked workers find them too.

They lie in a file without a name, not in memory: the order of another epoch, or of another worker's splits, is made of
them without reading a key again. A spawned worker begins with none.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from typing import IO, Any

import numpy as np

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.decode.merged import AnyUnit

__all__ = ["KnownLengths"]

# Requests of a unit and one more, 0 where they are not known; decoded bytes behind a request and an impression.
_FACTS = np.dtype([("known", "<i8"), ("request_bytes", "<f8"), ("impression_bytes", "<f8")])
_WIDTH = 4


class KnownLengths:
    """Lengths of units by number.

    Args:
        slots: (units,) requests of each, at most.
    """

    def __init__(self, slots: Int64) -> None:
        self._slots = slots
        self._places = offsets_from_lengths(slots) * _WIDTH
        # Shared between processes by a fork, as the file is.
        self._memory = mmap.mmap(-1, max(len(slots), 1) * _FACTS.itemsize)
        self._facts = np.frombuffer(self._memory, dtype=_FACTS)
        self._file: IO[bytes] | None = None
        try:
            self._file = tempfile.TemporaryFile(prefix="dedup-storage-lengths-", buffering=0)  # noqa: SIM115
        except OSError:
            # No place to write costs reading keys again, as a full disk does.
            return
        # Python warns of files that are only let go.
        weakref.finalize(self, self._file.close)

    def __getstate__(self) -> dict[str, Any]:
        return {"slots": self._slots}

    def __setstate__(self, state: dict[str, Any]) -> None:
        KnownLengths.__init__(self, state["slots"])

    def get(self, unit: int) -> tuple[np.ndarray[Any, np.dtype[np.int32]], float, float] | None:
        """Impressions of each request, and decoded bytes behind a request and an impression; ``None`` if not known."""
        known, request_bytes, impression_bytes = self._facts[unit].tolist()
        if known == 0 or self._file is None:
            return None
        wanted = (known - 1) * _WIDTH
        data = os.pread(self._file.fileno(), wanted, int(self._places[unit]))
        return (np.frombuffer(data, dtype="<i4"), request_bytes, impression_bytes) if len(data) == wanted else None

    def put(self, unit: int, read: AnyUnit) -> None:
        """Keep a unit's; several processes may, since all keep the same."""
        if self._file is None:
            return
        data = np.ascontiguousarray(read.lengths, dtype="<i4").tobytes()
        try:
            written = os.pwrite(self._file.fileno(), data, int(self._places[unit]))
        except OSError:
            self._file = None
            return
        if written == len(data):
            facts = self._facts[unit]
            facts["request_bytes"], facts["impression_bytes"] = read.request_bytes, read.impression_bytes
            # Last: whoever finds it finds the rest.
            facts["known"] = len(read) + 1
