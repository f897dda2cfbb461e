"""Self-attention inside each of several contexts, by padded blocks of contexts of like length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dedup_storage.training.attention.blocks import Padded, like_lengths, put_back

__all__ = ["PlannedContexts", "attend_within", "plan_contexts"]


@dataclass(frozen=True)
class PlannedContexts:
    """Contexts of like length: their tokens by place.

    Attributes:
        tokens: Of each of n contexts.
        lengths: (n,) int64.
        into: (m,) int64, which tokens the results without padding are of.
    """

    tokens: Padded
    lengths: Tensor
    into: Tensor


def plan_contexts(offsets: Tensor, heads: int) -> list[PlannedContexts]:
    """What ``attend_within`` needs beside the tokens: the same for each layer. Waits for the device.

    Args:
        offsets: (R + 1,) int64.
        heads: H.
    """
    lengths, planned = offsets[1:] - offsets[:-1], []
    for contexts, sizes, _ in like_lengths(lengths, lengths, heads):
        own = lengths[contexts]
        tokens = Padded.of(offsets[contexts], own, max(sizes), sum(sizes))
        planned.append(PlannedContexts(tokens, own, tokens.without_padding(tokens.places)))
    return planned


def attend_within(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    planned: Sequence[PlannedContexts],
    *,
    causal: bool,
    last_is_apart: bool = False,
) -> Tensor:
    """Let each token attend to the tokens of its own context.

    Args:
        queries, keys, values: (T, H, D).
        planned: From ``plan_contexts``.
        causal: Whether a token sees only itself and those before it.
        last_is_apart: Whether the last token of each context is seen by nobody but itself, as a candidate behind its
            context is.

    Returns:
        (T, H, D).
    """
    pieces = []
    for contexts in planned:
        q, k, v = (t[contexts.tokens.places].transpose(1, 2) for t in (queries, keys, values))
        if causal:
            # Padding and a token that is apart stand behind all others, which never look there: no mask is made.
            found = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            visible = _visible(contexts.tokens.there, contexts.lengths, last_is_apart)
            found = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible.unsqueeze(1))
        pieces.append(contexts.tokens.without_padding(found.transpose(1, 2)))
    return put_back(queries, pieces, [contexts.into for contexts in planned])


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
