"""The hash that chooses users: XXH64, the same in Spark (``xxhash64``) and here, in NumPy.

A user's *point* is a number in [0, 2**53): the upper 53 bits of XXH64(id, seed'), where seed' = XXH64(seed, 42), both
over 8 little-endian bytes for integers (``int`` ids count as ``bigint``) and over the UTF-8 bytes for strings. In
Spark: ``shiftrightunsigned(xxhash64(CAST(seed AS BIGINT), id), 11)``. Points are uniform and depend on nothing else:
no layout, bucket count, run, machine or hash seed of a process. A sample of share f holds the users whose point is
below f * 2**53, so a smaller sample of one seed lies inside a larger one.

Strings have another hash in batches (FNV-1a, ``reader.hashing``), on which trained models depend; this one has to be
XXH64, since Spark chooses the same users with it. Neither may change.

Source of the hash: XXH64, https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.errors import SchemaError, UsageError

__all__ = ["POINTS", "POINT_SHIFT", "check_seed", "limit", "user_points", "xxh64_longs", "xxh64_strings"]

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

POINT_SHIFT = 11
POINTS = 2**53
_SHARES = 2**40
# Spark's xxhash64 starts from this seed and takes each column's hash as the seed of the next.
SPARK_SEED = 42

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)
_STRIPE, _WORD, _HALF = 32, 8, 4


def check_seed(seed: int) -> int:
    """The seed, if it is a non-negative 64-bit integer.

    Raises:
        UsageError: it is none.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UsageError("the seed cannot be used", expected="an integer from 0 to 2**63 - 1", got=repr(seed)[:40])
    return seed


def limit(share: float) -> int:
    """First point outside a share of the users. Examples: 0 -> 0, 0.5 -> 2**52, 1 -> 2**53

    Shares are rounded to 2**-40, so that 0.1 + 0.2 and 0.3 are one border.
    """
    return round(share * _SHARES) * (POINTS // _SHARES)


def user_points(users: Any, seed: int) -> Int64:
    """Points of users.

    Args:
        users: (n,) Arrow array (chunked or not) or NumPy array of integers or strings, without nulls.
        seed: Seed of the sample.

    Returns:
        (n,) int64 in [0, 2**53).

    Raises:
        SchemaError: the values are neither integers nor strings.
    """
    array = users if isinstance(users, (pa.Array, pa.ChunkedArray)) else pa.array(users)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    start = xxh64_longs(np.array([check_seed(seed)], dtype=np.int64), SPARK_SEED)[0]
    if pa.types.is_integer(array.type):
        hashes = xxh64_longs(array.cast(pa.int64()).to_numpy(zero_copy_only=False), int(start))
    elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        hashes = xxh64_strings(array, int(start))
    else:
        raise SchemaError("the users cannot be hashed", expected="integers or strings", got=str(array.type))
    return (hashes >> np.uint64(POINT_SHIFT)).astype(np.int64)


def _rotate(x: UInt64, bits: int) -> UInt64:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


def _round(lane: UInt64) -> UInt64:
    return _rotate(lane * _P2, 31) * _P1


def _avalanche(x: UInt64) -> UInt64:
    x = (x ^ (x >> np.uint64(33))) * _P2
    x = (x ^ (x >> np.uint64(29))) * _P3
    return x ^ (x >> np.uint64(32))


def xxh64_longs(values: npt.ArrayLike, seed: int) -> UInt64:
    """XXH64 of each integer's 8 little-endian bytes. (n,) -> (n,) uint64."""
    with np.errstate(over="ignore"):
        lane = np.asarray(values).astype(np.int64).view(np.uint64)
        state = np.full(lane.shape, np.uint64(seed), dtype=np.uint64) + _P5 + np.uint64(_WORD)
        state = _rotate(state ^ _round(lane), 27) * _P1 + _P4
        return _avalanche(state)


def xxh64_strings(strings: pa.Array, seed: int) -> UInt64:
    """XXH64 of each string's UTF-8 bytes. (n,) -> (n,) uint64.

    Vectorised over the strings: one step for each 32 bytes of the longest, and at most eleven more.
    """
    raw = strings.cast(pa.large_binary())
    offsets = np.frombuffer(raw.buffers()[1], dtype=np.int64)[raw.offset : raw.offset + len(raw) + 1]
    data = raw.buffers()[2]
    octets = np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.empty(0, dtype=np.uint8)
    at, left = offsets[:-1].copy(), np.diff(offsets)
    reader = _Lanes(octets)
    with np.errstate(over="ignore"):
        state = np.full(len(raw), np.uint64(seed), dtype=np.uint64) + _P5
        long = np.flatnonzero(left >= _STRIPE)
        if len(long):
            state[long] = _stripes(reader, at[long], left[long], np.uint64(seed))
            taken = left[long] // _STRIPE * _STRIPE
            at[long] += taken
        state += left.astype(np.uint64)
        left = left % _STRIPE
        while len(rows := np.flatnonzero(left >= _WORD)):
            state[rows] = _rotate(state[rows] ^ _round(reader.words(at[rows])), 27) * _P1 + _P4
            at[rows] += _WORD
            left[rows] -= _WORD
        rows = np.flatnonzero(left >= _HALF)
        state[rows] = _rotate(state[rows] ^ (reader.halves(at[rows]) * _P1), 23) * _P2 + _P3
        at[rows] += _HALF
        left[rows] -= _HALF
        while len(rows := np.flatnonzero(left > 0)):
            state[rows] = _rotate(state[rows] ^ (octets[at[rows]].astype(np.uint64) * _P5), 11) * _P1
            at[rows] += 1
            left[rows] -= 1
        return _avalanche(state)


def _stripes(reader: _Lanes, at: Int64, lengths: Int64, seed: np.uint64) -> UInt64:
    """State after all whole stripes of strings that have one."""
    lanes = [np.full(len(at), start, dtype=np.uint64) for start in (seed + _P1 + _P2, seed + _P2, seed, seed - _P1)]
    for stripe in range(int(lengths.max()) // _STRIPE):
        alive = np.flatnonzero(lengths >= (stripe + 1) * _STRIPE)
        for number, lane in enumerate(lanes):
            words = reader.words(at[alive] + stripe * _STRIPE + number * _WORD)
            lane[alive] = _rotate(lane[alive] + words * _P2, 31) * _P1
    one, two, three, four = lanes
    state = _rotate(one, 1) + _rotate(two, 7) + _rotate(three, 12) + _rotate(four, 18)
    for lane in lanes:
        state = (state ^ _round(lane)) * _P1 + _P4
    return state


class _Lanes:
    """Little-endian integers at any byte."""

    def __init__(self, octets: npt.NDArray[np.uint8]) -> None:
        self._octets = np.concatenate([octets, np.zeros(_WORD, dtype=np.uint8)])

    def words(self, at: Int64) -> UInt64:
        """Eight bytes each."""
        windows = np.lib.stride_tricks.sliding_window_view(self._octets, _WORD)
        return np.ascontiguousarray(windows[at]).view("<u8").ravel().astype(np.uint64)

    def halves(self, at: Int64) -> UInt64:
        """Four bytes each."""
        windows = np.lib.stride_tricks.sliding_window_view(self._octets, _HALF)
        return np.ascontiguousarray(windows[at]).view("<u4").ravel().astype(np.uint64)
