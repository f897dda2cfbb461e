"""How often an item stands in a batch, estimated while training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from dedup_storage.errors import UsageError

__all__ = ["StreamingLogQ"]


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shift(values: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own copies the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _mix(values: Tensor, seed: int) -> Tensor:
    """``dedup.mixing.mix64`` in wrapping int64 arithmetic: the ids lie on a device, where NumPy does not reach.

    ``_mix(values, seed)`` is ``mix64`` of ``values + seed * golden ratio``; the tests hold the two together.
    """
    x = values + _signed((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


class StreamingLogQ(nn.Module):
    """Log-probability of an item to be in a batch, by the steps between its appearances.

    Yi et al. 2019 (RecSys, "Sampling-bias-corrected neural modeling for large corpus item recommendations",
    Algorithms 2 and 3): array A holds the step of the last appearance, D the average distance of two,
    D <- (1 - alpha) D + alpha (t - A); Q = 1 / D. Items are hashed into both; of several hashes the largest distance
    counts, since a collision only ever shortens it. An item in every batch has Q = 1; what matters is the ratio of two.

    State stands in buffers, so it is saved with the model. With several ranks give ``update`` the items of all of them,
    then all keep the same state: ``RankRows.exchange(len(ids), ids.device).gather(ids)``.

    Args:
        num_buckets: Slots of each hash; several times the number of items.
        alpha: Weight of the newest distance; the smaller the more exact and the slower to follow.
        num_hashes: Number of hashes.

    Example:
        >>> log_q = StreamingLogQ(1 << 20)
        >>> log_q.update(batch.item_ids())
        >>> user_masked_info_nce(queries, items, users, batch.item_ids(), log_q=log_q(batch.item_ids()))
    """

    step: Tensor
    last: Tensor
    distance: Tensor

    def __init__(self, num_buckets: int = 1 << 20, alpha: float = 0.05, num_hashes: int = 2) -> None:
        super().__init__()
        if num_buckets < 1 or num_hashes < 1 or not 0 < alpha <= 1:
            raise UsageError(
                "the estimator's sizes are out of range",
                expected="num_buckets and num_hashes at least 1, alpha more than 0 and at most 1",
                got=f"{num_buckets}, {num_hashes}, {alpha}",
            )
        self.num_buckets, self.alpha, self.num_hashes = num_buckets, alpha, num_hashes
        self.register_buffer("step", torch.tensor(0, dtype=torch.int64))
        self.register_buffer("last", torch.zeros(num_hashes, num_buckets, dtype=torch.int64))
        self.register_buffer("distance", torch.zeros(num_hashes, num_buckets))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the state; in a model of half precision distances stay as they are: float16 ends at step 65,504."""
        distance = self.distance
        super()._apply(fn, recurse)
        if torch.finfo(self.distance.dtype).bits < torch.finfo(distance.dtype).bits:
            self.distance = distance.to(self.distance.device)
        return self

    def _buckets(self, item_ids: Tensor, seed: int) -> Tensor:
        return _mix(item_ids.to(torch.int64), seed).remainder(self.num_buckets)

    @torch.no_grad()
    def update(self, item_ids: Tensor) -> None:
        """Count one batch.

        Args:
            item_ids: (N,) integer items of the batch, in any order, repeated or not.
        """
        self.step += 1
        for seed in range(self.num_hashes):
            seen = self._buckets(item_ids, seed).unique()
            since = (self.step - self.last[seed, seen]).to(self.distance.dtype)
            before = self.distance[seed, seen]
            # The first distance is all that is known of an item.
            after = torch.where(self.last[seed, seen] == 0, since, before + self.alpha * (since - before))
            self.distance[seed, seen] = after
            self.last[seed, seen] = self.step

    def forward(self, item_ids: Tensor) -> Tensor:
        """log Q of items; one never seen counts as if it appeared next.

        Args:
            item_ids: (N,) integer.

        Returns:
            (N,) float32, at most 0, without gradient.
        """
        distances = []
        for seed in range(self.num_hashes):
            buckets = self._buckets(item_ids, seed)
            known = self.distance[seed, buckets]
            distances.append(torch.where(known > 0, known, (self.step + 1).to(known.dtype)))
        return -torch.stack(distances).amax(0).clamp(min=1).log()
