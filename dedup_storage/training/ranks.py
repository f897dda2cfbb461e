"""Rows and sums over ranks that gradients flow through; without a process group they are the identity.

The objective is the sum of what the ranks call ``backward()`` on. Its gradient with respect to what one rank put in
collects every rank's share, so the backward pass is a sum over ranks too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["RankRows", "sum_over_ranks", "world_size"]


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Ranks of a process group (of the default one when ``None``); 1 where torch.distributed is not set up."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


def sum_over_ranks(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum over ranks, on every rank; differentiable. Same shape, dtype and device as ``values`` (...)."""
    if world_size(group) == 1:
        return values
    total: Tensor = _Sum.apply(values, group)
    return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, shares: RankRows) -> Tensor:
        ctx.shares, ctx.dtype = shares, rows.dtype
        # Collectives want equal shapes: every rank pads to the longest share.
        padded = rows.new_zeros((max(shares.sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        received = [torch.empty_like(padded) for _ in shares.sizes]
        dist.all_gather(received, padded, group=shares.group)
        return torch.cat([part[:size] for part, size in zip(received, shares.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        shares: RankRows = ctx.shares
        # Half-precision gradients of many ranks are summed in float32.
        wide = grads[0].dtype if grads[0].dtype == torch.float64 else torch.float32
        total = grads[0].to(wide, copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=shares.group)
        return total[shares.first : shares.first + shares.own].to(ctx.dtype), None


@dataclass(frozen=True)
class RankRows:
    """How many rows each rank holds; ranks differ, because a request is never split.

    Attributes:
        sizes: Rows of every rank, in rank order.
        rank: This rank.
        group: The process group; ``None`` is the default one.
    """

    sizes: tuple[int, ...]
    rank: int = 0
    group: dist.ProcessGroup | None = None

    @classmethod
    def exchange(cls, rows: int, device: torch.device, group: dist.ProcessGroup | None = None) -> RankRows:
        """Tell every rank how many rows this one has; one small collective, which waits for the device.

        Args:
            rows: Rows of this rank; 0 is allowed, and the rank still has to take part.
            device: A device that the group's backend can send from.
            group: The process group.
        """
        world = world_size(group)
        if world == 1:
            return cls((rows,))
        own = torch.tensor([rows], dtype=torch.int64, device=device)
        sizes = [torch.empty_like(own) for _ in range(world)]
        dist.all_gather(sizes, own, group=group)
        return cls(tuple(torch.cat(sizes).tolist()), dist.get_rank(group), group)

    @property
    def own(self) -> int:
        """Rows of this rank."""
        return self.sizes[self.rank]

    @property
    def first(self) -> int:
        """Place of this rank's first row among all."""
        return sum(self.sizes[: self.rank])

    @property
    def total(self) -> int:
        """Rows of all ranks."""
        return sum(self.sizes)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks in rank order; differentiable.

        Args:
            rows: (own, ...), the same trailing shape and dtype on every rank.

        Returns:
            (total, ...), same dtype and device.
        """
        if len(self.sizes) == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)
        return gathered
