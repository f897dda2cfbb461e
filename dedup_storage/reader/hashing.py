"""Hashes that mean the same in every release, process and machine.

Strings are hashed with FNV-1a here and with XXH64 in ``sampling.hashing``, and both must stay as they are: models are
trained on the ids that the one gives (``strings='hash'``, ``user_ids``), stored samples hold the users that the other
chose, in Spark too.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.mixing import mix64
from dedup_storage.dedup.runs import Int64

__all__ = ["combine", "hash_strings"]

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


def combine(*parts: int) -> int:
    """One 64-bit number from several, order mattering."""
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        state = mix64(state ^ mix64(np.array([part % 2**64], dtype=np.uint64)))
    return int(state[0])


def hash_strings(strings: pa.Array) -> Int64:
    """FNV-1a of each string's UTF-8 bytes, finished by SplitMix64. (n,) -> (n,) int64; a null hashes to 0.

    Vectorised over the strings: one step for each byte of the longest.
    """
    raw = strings.cast(pa.large_binary())
    offsets = np.frombuffer(raw.buffers()[1], dtype=np.int64)[raw.offset : raw.offset + len(raw) + 1]
    data = raw.buffers()[2]
    octets = np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.zeros(1, dtype=np.uint8)
    starts, lengths = offsets[:-1], np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")
    state = np.full(len(raw), _FNV_OFFSET, dtype=np.uint64)
    starts, lengths = starts[order], lengths[order]
    with np.errstate(over="ignore"):
        for step in range(int(lengths[0]) if len(lengths) else 0):
            # Longest first: those that still have a byte are a prefix.
            alive = int(np.searchsorted(-lengths, -step, side="left"))
            state[:alive] = (state[:alive] ^ octets[starts[:alive] + step]) * _FNV_PRIME
    hashes = np.empty(len(raw), dtype=np.int64)
    hashes[order] = mix64(state).view(np.int64)
    if raw.null_count:
        hashes[raw.is_null().to_numpy(zero_copy_only=False)] = 0
    return hashes
