"""64-bit fingerprints of Arrow values, vectorised: the same value gives the same number on every machine.

Used to choose users, to count distinct values and to propose where lists overlap; never to decide whether
stored data are equal. Of n different values, two agree by chance with probability n**2 / 2**65.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.mixing import mix64
from dedup_storage.dedup.runs import ArrowColumn, single_chunk

__all__ = ["Hashes", "WindowHashes", "combine", "count_distinct", "hash_column", "powers"]

Hashes = npt.NDArray[np.uint64]

# The base of the window hash: odd, so that it has an inverse modulo 2**64.
_BASE = 0xD1342543DE82EF95
_INVERSE = pow(_BASE, -1, 2**64)
# Parts of a log are of about one size: the powers that one took serve the next, up to 32 MB of each.
_KEPT_POWERS: dict[int, Hashes] = {}
_MOST_KEPT = 1 << 22
_NULL = np.uint64(0x5BF03635F0B7A54D)
_BITS = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}


def combine(columns: list[Hashes]) -> Hashes:
    """One hash for each row of several columns, order of columns included. k of (n,) -> (n,)."""
    combined = columns[0]
    for column in columns[1:]:
        combined = mix64(combined) ^ column
    return mix64(combined)


def count_distinct(hashes: Hashes) -> int:
    """Distinct values among hashes."""
    return len(np.unique(hashes))


def powers(count: int, *, inverse: bool = False) -> Hashes:
    """The window hash's base (or its inverse) to the power of 0 .. count - 1, modulo 2**64. (count,), read-only."""
    base = _INVERSE if inverse else _BASE
    known = _KEPT_POWERS.get(base)
    if known is None or len(known) < count:
        known = np.full(max(1 << max(count - 1, 0).bit_length(), 1024), np.uint64(base), dtype=np.uint64)
        known[:1] = 1
        np.cumprod(known, out=known)
        known.flags.writeable = False
        if len(known) <= _MOST_KEPT:
            _KEPT_POWERS[base] = known
    return known[:count]


class WindowHashes:
    """Hashes of windows of one array of elements: equal windows hash alike wherever they lie.

    A polynomial rolling hash (Karp, Rabin: Efficient randomized pattern-matching algorithms, IBM J. Res. Dev. 31,
    1987) modulo 2**64 over mixed elements, brought to a common origin by the inverse of the base.

    Args:
        elements: (n,) hashes of the elements.
    """

    def __init__(self, elements: Hashes) -> None:
        self._sums = np.zeros(len(elements) + 1, dtype=np.uint64)
        np.cumsum(elements * powers(len(elements)), out=self._sums[1:], dtype=np.uint64)
        self._inverse = powers(len(elements) + 1, inverse=True)

    def hashes(self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Hashes:
        """Hash of each window [start, end). (k,), (k,) -> (k,)."""
        return (self._sums[ends] - self._sums[starts]) * self._inverse[starts]


def hash_column(column: ArrowColumn, *, bits: bool = False) -> Hashes:
    """A hash for each row of a column of any type; nulls are equal to each other and to nothing else.

    Args:
        column: (n,) values.
        bits: Floats are told apart by their bits: the two zeros differ, and so do two NaNs of other bits.

    Returns:
        (n,) uint64.
    """
    array = single_chunk(column)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if len(array) == 0:
        return np.empty(0, dtype=np.uint64)
    hashes = _hash_values(array, bits)
    if array.null_count:
        hashes = np.where(array.is_null().to_numpy(zero_copy_only=False), _NULL, hashes)
    return hashes


def _hash_values(array: pa.Array, bits: bool) -> Hashes:
    kind = array.type
    if pa.types.is_struct(kind):
        fields = [hash_column(field, bits=bits) for field in array.flatten()]
        return combine(fields) if fields else np.zeros(len(array), dtype=np.uint64)
    if pa.types.is_map(kind):
        array = array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
        kind = array.type
    if pa.types.is_fixed_size_list(kind):
        array = array.cast(pa.list_(kind.value_type))
        kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values, offsets = list_parts(array)
        return _windows(hash_column(values, bits=bits), offsets)
    if pa.types.is_null(kind):
        return np.full(len(array), _NULL, dtype=np.uint64)
    if pa.types.is_boolean(kind):
        return mix64(_filled(array.cast(pa.uint8()), 0).astype(np.uint64))
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        whole = array if pa.types.is_integer(kind) else array.view(width)
        return mix64(_filled(whole, 0).astype(np.int64, copy=False).view(np.uint64))
    if pa.types.is_floating(kind):
        if bits:
            whole = array.view(_BITS[kind.bit_width])
            return mix64(_filled(whole, 0).astype(np.int64, copy=False).view(np.uint64))
        # Adding zero makes the two zeros one.
        doubles = _filled(array.cast(pa.float64()), 0.0) + 0.0
        return mix64(doubles.view(np.uint64))
    return _hash_bytes(array)


def _filled(array: pa.Array, value: float) -> npt.NDArray[Any]:
    """The values, one in place of nulls."""
    whole = array.fill_null(value) if array.null_count else array
    return np.asarray(whole.to_numpy(zero_copy_only=False))


def _hash_bytes(array: pa.Array) -> Hashes:
    """Hashes of strings, binaries and everything that has a text form."""
    if not (pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type)):
        array = array.cast(pa.large_string()) if not pa.types.is_fixed_size_binary(array.type) else array
        array = array.cast(pa.large_binary())
    array = pc.fill_null(array.cast(pa.large_binary()), b"")
    buffers: list[Any] = array.buffers()
    offsets = np.frombuffer(buffers[1], dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(buffers[2], dtype=np.uint8) if buffers[2] is not None else np.empty(0, dtype=np.uint8)
    return _windows(mix64(data[offsets[0] : offsets[-1]].astype(np.uint64)), offsets - offsets[0])


def _windows(elements: Hashes, offsets: npt.NDArray[np.int64]) -> Hashes:
    """Hash of each list or string, its length included."""
    starts, ends = offsets[:-1], offsets[1:]
    hashed = WindowHashes(elements).hashes(starts, ends)
    return mix64(hashed ^ mix64((ends - starts).astype(np.uint64)))
