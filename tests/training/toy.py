"""A toy batch of requests and a toy two-tower model, shared by the tests and by the ranks they start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dedup_storage.reader import Column
from dedup_storage.training import CountWeightedBatchNorm1d, user_masked_info_nce


def coded(strings: list[str]) -> Column:
    """A string column as a batch holds it: codes by first appearance in this batch alone."""
    vocabulary = tuple(dict.fromkeys(strings))
    return Column(torch.tensor([vocabulary.index(s) for s in strings], dtype=torch.int32), vocabulary=vocabulary)


@dataclass
class Toy:
    """Requests of users that come back, with ragged candidates among few items.

    Attributes:
        users: (R) string key of each request.
        features: (R, 5).
        lengths: (R,).
        items: (B,) item ids; popular ones repeat.
        vectors: (B, 6) item features.
        log_q: (B,).
        positives: (B,) bool.
    """

    users: list[str]
    features: Tensor
    lengths: Tensor
    items: Tensor
    vectors: Tensor
    log_q: Tensor
    positives: Tensor
    inverse: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.inverse = torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)

    @classmethod
    def make(cls, requests: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64) -> Toy:
        """A batch whose content follows from the seed."""
        rng = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, 6, (requests,), generator=rng)
        total = int(lengths.sum())
        return cls(
            users=[f"usér-{u}" for u in torch.randint(0, requests // 2, (requests,), generator=rng).tolist()],
            features=torch.randn(requests, 5, generator=rng, dtype=dtype) + 3,
            lengths=lengths,
            items=torch.randint(0, 15, (total,), generator=rng),
            vectors=torch.randn(total, 6, generator=rng, dtype=dtype),
            log_q=-3 * torch.rand(total, generator=rng, dtype=dtype),
            positives=torch.rand(total, generator=rng) < 0.7,
        )

    def part(self, first: int, last: int) -> Toy:
        """Requests first to last; a request is never split."""
        bounds = [0, *self.lengths.cumsum(0).tolist()]
        b = slice(bounds[first], bounds[last])
        r = slice(first, last)
        return Toy(
            self.users[r], self.features[r], self.lengths[r], self.items[b], self.vectors[b], self.log_q[b],
            self.positives[b],
        )  # fmt: skip

    def user_ids(self) -> Tensor:
        """(B,) int64, from codes that mean something else on every rank."""
        return coded(self.users).ids()[self.inverse] if self.users else torch.zeros(0, dtype=torch.int64)


class TwoTower(nn.Module):
    """User tower on R rows with count-weighted normalisation, item tower on B rows."""

    def __init__(self, dtype: torch.dtype = torch.float64, group: dist.ProcessGroup | None = None) -> None:
        super().__init__()
        rng = torch.random.get_rng_state()
        torch.manual_seed(7)
        self.first = nn.Linear(5, 8, dtype=dtype)
        self.norm = CountWeightedBatchNorm1d(8, group=group).to(dtype)
        self.second = nn.Linear(8, 4, dtype=dtype)
        self.item = nn.Linear(6, 4, dtype=dtype)
        torch.random.set_rng_state(rng)

    def forward(self, features: Tensor, counts: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        users = self.second(torch.relu(self.norm(self.first(features), counts)))
        return users, self.item(vectors)


def train_step(model: nn.Module, toy: Toy, **options: Any) -> dict[str, Any]:
    """Forward and backward; loss and counts as plain numbers."""
    queries, items = model(toy.features, toy.lengths, toy.vectors)
    result = user_masked_info_nce(
        queries, items, toy.user_ids(), toy.items, inverse_indices=toy.inverse, log_q=toy.log_q,
        positives=toy.positives, temperature=0.5, **options,
    )  # fmt: skip
    result.loss.backward()  # type: ignore[no-untyped-call]
    return {
        "loss": result.loss.item(),
        "mean": result.mean.item(),
        "rows": int(result.rows),
        "without": int(result.without_negatives),
    }


def gradients(model: nn.Module) -> dict[str, list[float]]:
    """Gradients and buffers by name, flat."""
    found = {n: p.grad.flatten().tolist() for n, p in model.named_parameters() if p.grad is not None}
    return {**found, **{n: b.double().flatten().tolist() for n, b in model.named_buffers()}}
