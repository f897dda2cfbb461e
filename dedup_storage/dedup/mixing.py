"""SplitMix64's finalizer in NumPy: the bijection behind every shuffle and every hash of the toolkit but XXH64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["UInt64", "mix64"]

UInt64 = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix64(values: npt.ArrayLike) -> UInt64:
    """SplitMix64's finalizer: a bijection of 64-bit integers, the same in every release and on every machine.

    Orders of epochs, draws of users and ids of strings follow from it: it must never change. ``training.log_q`` has
    its PyTorch form, for ids that lie on a device.

    Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.

    Args:
        values: (n,) integers; negative ones count as their two's complement.

    Returns:
        (n,) uint64.
    """
    with np.errstate(over="ignore"):
        x: UInt64 = np.asarray(np.asarray(values).astype(np.uint64, copy=False) + _GOLDEN)
        # In place: large arrays cost more in new memory than in arithmetic.
        shifted: UInt64 = np.asarray(np.right_shift(x, np.uint64(30)))
        x ^= shifted
        x *= _FIRST
        np.right_shift(x, np.uint64(27), out=shifted)
        x ^= shifted
        x *= _SECOND
        np.right_shift(x, np.uint64(31), out=shifted)
        x ^= shifted
        return x
