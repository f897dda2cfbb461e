"""Counter-based random numbers: each value is a pure function of (seed, stream, user, request, index).

Philox 4x32-10 of Salmon, Moraes, Dror and Shaw, 'Parallel random numbers: as easy as 1, 2, 3' (SC 2011), over whole
arrays of counters. NumPy's own Philox walks one counter; here every element has another one, so that any slice of
a log can be made by itself, in any process, in any order.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Stream", "philox4x32", "uniform", "words"]

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

UInts = NDArray[np.uint64]


class Stream(IntEnum):
    """What a draw is for; draws of different streams are independent. Values are part of 'same seed, same bytes'."""

    ITEM = 1
    USER = 2
    ACTIVITY = 3
    REQUEST = 4
    EVENT = 5
    CANDIDATE = 6
    SHUFFLE = 7
    # REDRAW + n is the n-th further draw for a candidate that was drawn before; the last of the 8-bit streams.
    REDRAW = 32


def philox4x32(counter: tuple[UInts, UInts, UInts, UInts], key: tuple[int, int]) -> tuple[UInts, UInts, UInts, UInts]:
    """Ten rounds of Philox 4x32.

    Args:
        counter: Four arrays of one shape, uint64 holding 32-bit words.
        key: Two 32-bit words.

    Returns:
        Four arrays of that shape, uint64 holding independent 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0 = c0 * _MULTIPLIERS[0]
        p1 = c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def words(
    seed: int, stream: int, user: ArrayLike = 0, request: ArrayLike = 0, index: ArrayLike = 0
) -> tuple[UInts, UInts, UInts, UInts]:
    """Four 32-bit words for each (user, request, index), broadcast against each other.

    Args:
        seed: 64 bits.
        stream: Below 256.
        user: Below 2**56.
        request: Below 2**32.
        index: Below 2**32.

    Returns:
        Four uint64 arrays holding 32-bit words.
    """
    u, r, i = np.broadcast_arrays(*(np.asarray(a, dtype=np.uint64) for a in (user, request, index)))
    high = (u >> _HALF) | np.uint64(stream << 24)
    return philox4x32((i, r, u & _LOW, high), (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))


def uniform(word: UInts) -> NDArray[np.float64]:
    """32-bit words as numbers in the open interval (0, 1)."""
    return (word.astype(np.float64) + 0.5) * 2.0**-32
