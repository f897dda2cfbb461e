"""Choosing users without Spark: what the reader applies to the keys it reads. NumPy and Arrow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.sampling.definition import Sample
from dedup_storage.sampling.hashing import POINTS, user_points, xxh64_longs

__all__ = ["Selector", "choose_buckets", "make_selector"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Selector:
    """Tells which users are in a sample, and what each stands for.

    Attributes:
        seed: Seed of the hash.
        low, high: Range of points, ``high`` exclusive.
        weight: Weight of every user, where they are not stored.
        users: (n,) the stored users, ``None`` for a sample by hash alone.
        weights: (n,) their weights.
    """

    seed: int
    low: int
    high: int
    weight: float
    users: pa.Array | None = None
    weights: Floats | None = None

    def keep(self, users: pa.ChunkedArray | pa.Array) -> Bools:
        """(n,) whether each user is in the sample."""
        if self.users is not None:
            return np.asarray(_places(users, self.users) >= 0)
        if self.low <= 0 and self.high >= POINTS:
            return np.ones(len(users), dtype=np.bool_)
        points = user_points(users, self.seed)
        return np.asarray((points >= self.low) & (points < self.high))

    def weigh(self, users: pa.ChunkedArray | pa.Array) -> Floats:
        """(n,) inverse inclusion probability of users that are in the sample."""
        if self.users is None or self.weights is None:
            return np.full(len(users), self.weight, dtype=np.float64)
        return self.weights[np.maximum(_places(users, self.users), 0)]


def _places(users: pa.ChunkedArray | pa.Array, stored: pa.Array) -> npt.NDArray[np.int64]:
    """Place of each user among the stored ones, -1 where it is none."""
    array = users.combine_chunks() if isinstance(users, pa.ChunkedArray) else users
    found = pc.index_in(array.cast(stored.type), value_set=stored)
    return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def make_selector(sample: Sample, users: pa.Array | None = None, weights: Floats | None = None) -> Selector:
    """The selector of a sample.

    Args:
        sample: Its record.
        users, weights: Its stored users, where it has some.
    """
    low, high = sample.spec.points()
    weight = sample.strata[0].weight if sample.strata else 1.0
    return Selector(sample.spec.seed, low, high, weight, users, weights)


def choose_buckets(count: int, total: int, seed: int) -> tuple[int, ...]:
    """``count`` of ``total`` buckets, ascending: those with the lowest hashes; fewer lie inside more."""
    order = np.argsort(xxh64_longs(np.arange(total, dtype=np.int64), seed), kind="stable")
    return tuple(sorted(order[:count].tolist()))
