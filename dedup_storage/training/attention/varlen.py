"""Attention by FlashAttention over packed sequences of several lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from dedup_storage.training.attention.windows import Windows

__all__ = ["PlannedSequences", "attend_by_varlen", "plan_sequences"]


@dataclass(frozen=True)
class PlannedSequences:
    """Queries and keys as packed sequences.

    Attributes:
        order: (B,) int64, the queries by request.
        bounds, offsets: (R + 1,) int32, of the queries in that order and of the keys.
        most, longest: Most queries of a request, and most keys.
        seeing: (B,) bool, which queries have a key.
    """

    order: Tensor
    bounds: Tensor
    offsets: Tensor
    most: int
    longest: int
    seeing: Tensor


def plan_sequences(windows: Windows, inverse_indices: Tensor) -> PlannedSequences:
    """Of windows of offsets. Waits for the device, which must tell the longest context."""
    counts = torch.bincount(inverse_indices, minlength=len(windows))
    lengths = windows.lengths
    longest, most = torch.stack([lengths.max(), counts.max()]).tolist() if len(windows) else (0, 0)
    order = torch.argsort(inverse_indices, stable=True)
    bounds = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
    offsets = torch.cat([windows.starts[:1], windows.ends]).to(torch.int32)
    return PlannedSequences(order, bounds, offsets, most, longest, (lengths > 0)[inverse_indices])


def attend_by_varlen(
    queries: Tensor, keys: Tensor, values: Tensor, planned: PlannedSequences, *, scale: float
) -> Tensor:
    """See ``attend``."""
    if not planned.longest or not planned.most:
        return queries * 0
    found = varlen_attn(
        queries[planned.order], keys, values, planned.bounds, planned.offsets, planned.most, planned.longest,
        scale=scale,
    )  # fmt: skip
    rows = torch.empty_like(queries).index_copy(0, planned.order, cast(Tensor, found))
    return torch.where(planned.seeing[:, None, None], rows, 0)
