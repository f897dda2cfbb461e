"""Attention by FlexAttention: one kernel over all requests, which skips keys that no query of a block sees."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from dedup_storage.training.attention.bias import AgeBias
from dedup_storage.training.attention.windows import Moments, Windows

__all__ = ["attend_by_flex", "window_mask"]

BLOCK = 128
_LEAST_WIDTH = 16


def window_mask(
    windows: Windows, inverse_indices: Tensor, keys: int, moments: Moments | None = None, *, backward: bool = True
) -> BlockMask:
    """Which blocks of keys each block of queries looks at, from the windows' ends alone: no pair of both is tried.

    Args:
        windows: Of the requests.
        inverse_indices: (B,) request of each query; where requests lie together, as a batch has them, few blocks are
            looked at.
        keys: T.
        moments: Where later keys are hidden.
        backward: Whether to say too which queries look at each block of keys, which gradients need.
    """
    starts, ends = windows.starts[inverse_indices], windows.ends[inverse_indices]
    rows = -(-len(inverse_indices) // BLOCK)
    empty = ends <= starts
    first = _by_block(torch.where(empty, keys, starts), rows, keys, torch.amin) // BLOCK
    behind = (_by_block(torch.where(empty, 0, ends), rows, 0, torch.amax) + BLOCK - 1) // BLOCK
    number = (behind - first).clamp(min=0)
    columns = max(1, -(-keys // BLOCK))
    indices = (first.unsqueeze(1) + torch.arange(columns, device=first.device)).clamp(max=columns - 1)
    later = moments is not None and moments.hide_later
    at, events = (moments.at, moments.events) if moments is not None else (starts, starts)

    def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        inside = (k >= starts[q]) & (k < ends[q])
        return inside & (events[k] <= at[q]) if later else inside

    return BlockMask.from_kv_blocks(
        number[None, None].to(torch.int32), indices[None, None].to(torch.int32), BLOCK_SIZE=BLOCK, mask_mod=seen,
        seq_lengths=(len(inverse_indices), keys), compute_q_blocks=backward,
    )  # fmt: skip


def _by_block(values: Tensor, rows: int, fill: int, reduce: Callable[..., Tensor]) -> Tensor:
    padded = torch.nn.functional.pad(values, (0, rows * BLOCK - len(values)), value=fill)
    return reduce(padded.view(rows, BLOCK), dim=1)


def attend_by_flex(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: BlockMask | None,
    *,
    own: tuple[Tensor, Tensor] | None = None,
    moments: Moments | None = None,
    bias: AgeBias | None = None,
    scale: float,
) -> Tensor:
    """See ``attend``; compiled on CUDA. The mask is ``window_mask``'s, ``None`` without a query or without a key."""
    if mask is None:
        return queries * 0 if own is None else queries * 0 + own[1]
    score_mod = None
    if bias is not None and moments is not None:
        at, events = moments.at, moments.events
        table: Tensor
        # A number of 64 bits reaches the kernel by a tensor alone: a Python integer is cut to 32 bits on its way.
        if bias.bounds:
            table, units = bias.table, torch.full_like(at, bias.unit)
        else:
            # A constant class cannot be compiled backward: one class becomes two that are the same.
            table, units = bias.table[:, :1].repeat(1, 2), torch.ones_like(at)
        last = table.shape[1] - 1

        def add_bias(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            # The kernel knows no bucketize: the class is the number of binary digits of the age in units.
            rest = torch.clamp(at[q] - events[k], min=0) // units[q]
            number = torch.zeros_like(rest)
            for digits in (32, 16, 8, 4, 2, 1):
                more = rest >> digits
                longer = more > 0
                number = torch.where(longer, number + digits, number)
                rest = torch.where(longer, more, rest)
            number = torch.clamp(number + rest, max=last).to(torch.int32)
            return score + table[h, number]

        score_mod = add_bias
    # The kernels take no head narrower than 16; columns of zeros change no score.
    width = queries.shape[-1]
    rows = [queries, keys, values]
    if queries.is_cuda and width < _LEAST_WIDTH:
        rows = [torch.nn.functional.pad(t, (0, _LEAST_WIDTH - width)) for t in rows]
    q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in rows)
    whole, auxiliary = _attention(queries.is_cuda)(
        q, k, v, score_mod=score_mod, block_mask=mask, scale=scale, return_aux=AuxRequest(lse=True)
    )
    found: Tensor = whole[0].transpose(0, 1)[..., :width]
    total: Tensor = auxiliary.lse[0].transpose(0, 1)
    if own is None:
        return found
    # softmax over keys and own key: the own key has the share e^s / (e^s + e^lse).
    score = ((queries * own[0]).sum(-1) * scale).to(total.dtype)
    share = torch.sigmoid(score - total).unsqueeze(-1).to(found.dtype)
    return torch.lerp(found, own[1], share)


@cache
def _attention(cuda: bool) -> Callable[..., Any]:
    function: Callable[..., Any] = flex_attention
    return torch.compile(function, dynamic=True) if cuda else function
