"""Self-attention inside each of several contexts, by padded blocks of contexts of like length."""

from __future__ import annotations

import torch
from torch import Tensor

from dedup_storage.training.attention.blocks import like_lengths, padded_places

__all__ = ["attend_within"]


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
    for contexts, longest, _ in like_lengths(lengths, lengths, queries.shape[1]):
        rows, there = padded_places(offsets[contexts], lengths[contexts], longest)
        q, k, v = (t[rows].transpose(1, 2) for t in (queries, keys, values))
        if causal:
            # Padding and a token that is apart stand behind all others, which never look there: no mask is made.
            found = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            visible = _visible(there, lengths[contexts], last_is_apart)
            found = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible.unsqueeze(1))
        pieces.append(found.transpose(1, 2)[there])
        places.append(rows[there])
    if not pieces:
        return queries * 0
    return torch.empty_like(queries).index_copy(0, torch.cat(places), torch.cat(pieces).to(queries.dtype))


def _visible(there: Tensor, lengths: Tensor, last_is_apart: bool) -> Tensor:
    """(n, L, L): which tokens of a padded context see which, in both directions."""
    steps = torch.arange(there.shape[1], device=there.device)
    visible = there.unsqueeze(1)
    itself = steps == steps.unsqueeze(1)
    if last_is_apart:
        last = steps == (lengths - 1).unsqueeze(1)
        visible = visible & ~(last.unsqueeze(1) & ~itself)
    # A row of padding looks at itself; nobody takes its result.
    return visible | itself
