"""Attention by blocks of requests of like length, padded to the longest of the block: any device, any dtype."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dedup_storage.training.attention.bias import AgeBias
from dedup_storage.training.attention.windows import Moments, Windows

__all__ = ["attend_in_blocks", "like_lengths", "padded_places"]

# Scores of one block, over all heads: some tens of megabytes.
_MOST_SCORES = 8_000_000


def attend_in_blocks(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    windows: Windows,
    inverse_indices: Tensor,
    *,
    own: tuple[Tensor, Tensor] | None = None,
    moments: Moments | None = None,
    bias: AgeBias | None = None,
    scale: float,
) -> Tensor:
    """See ``attend``. Keys are copied once for each request, never once for each impression."""
    if not len(keys):
        return queries * 0 if own is None else queries * 0 + own[1]
    order = torch.argsort(inverse_indices, stable=True)
    counts = torch.bincount(inverse_indices, minlength=len(windows))
    firsts = counts.cumsum(0) - counts
    pieces, places = [], []
    for requests, longest, most in like_lengths(windows.lengths, counts, queries.shape[1]):
        rows, there = padded_places(firsts[requests], counts[requests], most)
        chosen = order[rows]
        spots, present = padded_places(windows.starts[requests], windows.lengths[requests], longest)
        block = _Block(queries[chosen], keys[spots], values[spots], present, scale)
        if own is not None:
            block.own = own[0][chosen], own[1][chosen]
        if moments is not None:
            block.ages = moments.at[chosen].unsqueeze(2) - moments.events[spots].unsqueeze(1)
            block.hide_later, block.bias = moments.hide_later, bias
        pieces.append(block.attend()[there])
        places.append(chosen[there])
    if not pieces:
        return queries * 0
    # Each query stands in one block.
    return torch.empty_like(queries).index_copy(0, torch.cat(places), torch.cat(pieces).to(queries.dtype))


def like_lengths(lengths: Tensor, counts: Tensor, heads: int) -> Iterator[tuple[Tensor, int, int]]:
    """Requests with candidates, like lengths together, with the longest context and most candidates of each block."""
    order = torch.argsort(lengths, stable=True)
    order = order[counts[order] > 0]
    sizes = list(zip(lengths[order].tolist(), counts[order].tolist(), strict=True))
    begin = 0
    while begin < len(sizes):
        longest, most, end = 1, 1, begin
        while end < len(sizes):
            longer, more = max(longest, sizes[end][0]), max(most, sizes[end][1])
            if end > begin and (end + 1 - begin) * heads * longer * more > _MOST_SCORES:
                break
            longest, most, end = longer, more, end + 1
        yield order[begin:end], longest, most
        begin = end


def padded_places(firsts: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(n, width) places first, first + 1, … of each row, and whether they are inside it; others repeat place 0."""
    steps = torch.arange(width, device=firsts.device)
    there = steps < lengths.unsqueeze(1)
    return torch.where(there, firsts.unsqueeze(1) + steps, 0), there


class _Block:
    """Queries (n, c, H, D) over keys and values (n, L, H, D)."""

    own: tuple[Tensor, Tensor] | None = None
    ages: Tensor | None = None
    bias: AgeBias | None = None
    hide_later = False

    def __init__(self, queries: Tensor, keys: Tensor, values: Tensor, present: Tensor, scale: float) -> None:
        self.queries, self.keys, self.values, self.present, self.scale = queries, keys, values, present, scale

    def attend(self) -> Tensor:
        """(n, c, H, D)."""
        q, k, v = (t.transpose(1, 2) for t in (self.queries, self.keys, self.values))
        scores = q @ k.transpose(2, 3) * self.scale
        visible = self.present[:, None, None, :]
        if self.ages is not None:
            if self.bias is not None:
                scores = scores + self.bias(self.ages).transpose(0, 1).to(scores.dtype)
            if self.hide_later:
                visible = visible & (self.ages >= 0).unsqueeze(1)
        blind = ~visible.any(-1, keepdim=True)
        if self.own is not None:
            mine = (self.queries * self.own[0]).sum(-1).transpose(1, 2).unsqueeze(3) * self.scale
            scores = torch.cat([scores.masked_fill(~visible, float("-inf")), mine], 3)
            weights = torch.softmax(scores, 3)
            found = weights[..., :-1] @ v + weights[..., -1:] * self.own[1].transpose(1, 2)
            return found.transpose(1, 2)
        # A query without a key looks at padding, so that no softmax is of nothing, and its result counts for zero.
        weights = torch.softmax(scores.masked_fill(~(visible | blind), float("-inf")), 3)
        return torch.where(blind, 0, weights @ v).transpose(1, 2)
