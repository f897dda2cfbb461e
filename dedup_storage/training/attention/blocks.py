"""Attention by blocks of requests of like length, padded to the longest of the block: any device, any dtype."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dedup_storage.training.attention.bias import AgeBias
from dedup_storage.training.attention.windows import Moments, Windows

__all__ = ["Padded", "PlannedBlock", "attend_in_blocks", "like_lengths", "plan_blocks", "put_back"]

# Scores of one block, over all heads: some tens of megabytes.
_MOST_SCORES = 8_000_000


@dataclass(frozen=True)
class Padded:
    """Places of several rows, each padded to the longest.

    Attributes:
        places: (n, width) places first, first + 1, ... of each row; behind its end its last place again, of an empty
            row place 0. What padding is, a NaN say, is nobody else's then: a weight of 0 does not take it away.
        there: (n, width) bool, which lie before the end.
        kept: (m,) int64, those among the n * width; ``None`` where all are.
    """

    places: Tensor
    there: Tensor
    kept: Tensor | None

    @classmethod
    def of(cls, firsts: Tensor, lengths: Tensor, width: int, number: int) -> Padded:
        """Rows of some first places and lengths, ``number`` places altogether; waits for the device if any is padded.

        Args:
            firsts, lengths: (n,) int64.
            width: The greatest length.
            number: Sum of the lengths.
        """
        steps = torch.arange(width, device=firsts.device)
        there = steps < lengths.unsqueeze(1)
        inside = torch.minimum(steps, (lengths - 1).unsqueeze(1))
        places = torch.where((lengths > 0).unsqueeze(1), firsts.unsqueeze(1) + inside, 0)
        kept = None if number == len(firsts) * width else there.flatten().nonzero().squeeze(1)
        return cls(places, there, kept)

    def without_padding(self, rows: Tensor) -> Tensor:
        """(m, ...) of rows (n, width, ...)."""
        flat = rows.flatten(0, 1)
        return flat if self.kept is None else flat[self.kept]


@dataclass(frozen=True)
class PlannedBlock:
    """Requests of like length: their queries and keys by place.

    Attributes:
        queries: Places in the order of the requests.
        chosen: (n, c) int64, the query at each of them.
        keys: Of each request.
        into: (m,) int64, which queries the block's results without padding are of.
    """

    queries: Padded
    chosen: Tensor
    keys: Padded
    into: Tensor


def plan_blocks(windows: Windows, inverse_indices: Tensor, heads: int) -> list[PlannedBlock]:
    """What ``attend_in_blocks`` needs beside queries and keys: the same for each layer. Waits for the device."""
    order = torch.argsort(inverse_indices, stable=True)
    counts = torch.bincount(inverse_indices, minlength=len(windows))
    firsts = counts.cumsum(0) - counts
    blocks = []
    for requests, lengths, numbers in like_lengths(windows.lengths, counts, heads):
        queries = Padded.of(firsts[requests], counts[requests], max(numbers), sum(numbers))
        chosen = order[queries.places]
        keys = Padded.of(windows.starts[requests], windows.lengths[requests], max(1, *lengths), sum(lengths))
        blocks.append(PlannedBlock(queries, chosen, keys, queries.without_padding(chosen)))
    return blocks


def put_back(queries: Tensor, pieces: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Results of blocks, shaped like the queries they are of; each query stands in one block."""
    if not pieces:
        return queries * 0
    return torch.empty_like(queries).index_copy(0, torch.cat(list(places)), torch.cat(list(pieces)).to(queries.dtype))


def attend_in_blocks(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    blocks: Sequence[PlannedBlock],
    *,
    own: tuple[Tensor, Tensor] | None = None,
    moments: Moments | None = None,
    bias: AgeBias | None = None,
    scale: float,
) -> Tensor:
    """See ``attend``. Keys are copied once for each request, never once for each impression."""
    if not len(keys):
        return queries * 0 if own is None else queries * 0 + own[1]
    pieces = []
    for planned in blocks:
        chosen, spots = planned.chosen, planned.keys.places
        block = _Block(queries[chosen], keys[spots], values[spots], planned.keys.there, scale)
        if own is not None:
            block.own = own[0][chosen], own[1][chosen]
        if moments is not None:
            block.ages = moments.at[chosen].unsqueeze(2) - moments.events[spots].unsqueeze(1)
            block.hide_later, block.bias = moments.hide_later, bias
        pieces.append(planned.queries.without_padding(block.attend()))
    return put_back(queries, pieces, [planned.into for planned in blocks])


def like_lengths(lengths: Tensor, counts: Tensor, heads: int) -> Iterator[tuple[Tensor, list[int], list[int]]]:
    """Requests with candidates, like lengths together, with their lengths and counts. Waits for the device once."""
    # Those without candidates come last.
    order = torch.argsort(torch.where(counts > 0, lengths, torch.iinfo(lengths.dtype).max), stable=True)
    all_lengths, all_counts = torch.stack([lengths[order], counts[order]]).tolist()
    asked = sum(count > 0 for count in all_counts)
    begin = 0
    while begin < asked:
        longest, most, end = 1, 1, begin
        while end < asked:
            longer, more = max(longest, all_lengths[end]), max(most, all_counts[end])
            if end > begin and (end + 1 - begin) * heads * longer * more > _MOST_SCORES:
                break
            longest, most, end = longer, more, end + 1
        yield order[begin:end], all_lengths[begin:end], all_counts[begin:end]
        begin = end


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
