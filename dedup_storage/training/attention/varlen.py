"""Attention by FlashAttention over packed sequences of several lengths."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from dedup_storage.training.attention.windows import Windows

__all__ = ["attend_by_varlen"]


def attend_by_varlen(
    queries: Tensor, keys: Tensor, values: Tensor, windows: Windows, inverse_indices: Tensor, *, scale: float
) -> Tensor:
    """See ``attend``; windows of offsets alone. Waits for the device, which must tell the longest context."""
    counts = torch.bincount(inverse_indices, minlength=len(windows))
    lengths = windows.lengths
    longest, most = torch.stack([lengths.max(), counts.max()]).tolist() if len(windows) else (0, 0)
    if not longest or not most:
        return queries * 0
    order = torch.argsort(inverse_indices, stable=True)
    bounds = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
    offsets = torch.cat([windows.starts[:1], windows.ends]).to(torch.int32)
    found = varlen_attn(queries[order], keys, values, bounds, offsets, most, longest, scale=scale)
    rows = torch.empty_like(queries).index_copy(0, order, cast(Tensor, found))
    return torch.where((lengths[inverse_indices] > 0)[:, None, None], rows, 0)
