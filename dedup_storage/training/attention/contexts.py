"""Self-attention inside each of several contexts, by padded blocks of contexts of like length."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["attend_within"]

_MOST_SCORES = 8_000_000


def attend_within(
    queries: Tensor, keys: Tensor, values: Tensor, offsets: Tensor, *, causal: bool, last_is_apart: bool = False
) -> Tensor:
    """Let each token attend to the tokens of its own context.

    Args:
        queries, keys, values: (T, H, D).
        offsets: (R + 1,) int64.
        causal: Whether a token sees only itself and those before it.
        last_is_apart: Whether the last token of each context is seen by nobody but itself, as a candidate behind its
            context is.

    Returns:
        (T, H, D).
    """
    lengths, places, pieces = offsets[1:] - offsets[:-1], [], []
    for contexts, longest in _blocks(lengths, queries.shape[1]):
        steps = torch.arange(longest, device=offsets.device)
        there = steps < lengths[contexts].unsqueeze(1)
        rows = torch.where(there, offsets[contexts].unsqueeze(1) + steps, 0)
        visible = there.unsqueeze(1)
        if causal:
            visible = visible & (steps <= steps.unsqueeze(1))
        if last_is_apart:
            last = steps == (lengths[contexts] - 1).unsqueeze(1)
            visible = visible & ~(last.unsqueeze(1) & (steps != steps.unsqueeze(1)))
        # A row of padding looks at itself; nobody takes its result.
        visible = visible | (steps == steps.unsqueeze(1))
        q, k, v = (t[rows].transpose(1, 2) for t in (queries, keys, values))
        found = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible.unsqueeze(1))
        pieces.append(found.transpose(1, 2)[there])
        places.append(rows[there])
    if not pieces:
        return queries * 0
    return torch.empty_like(queries).index_copy(0, torch.cat(places), torch.cat(pieces).to(queries.dtype))


def _blocks(lengths: Tensor, heads: int) -> Iterator[tuple[Tensor, int]]:
    order = torch.argsort(lengths, stable=True)
    order = order[lengths[order] > 0]
    sizes = lengths[order].tolist()
    begin = 0
    while begin < len(sizes):
        end = begin + 1
        while end < len(sizes) and (end + 1 - begin) * heads * sizes[end] ** 2 <= _MOST_SCORES:
            end += 1
        yield order[begin:end], sizes[end - 1]
        begin = end
