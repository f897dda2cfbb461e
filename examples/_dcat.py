"""What ``dcat_ranker.py`` trains: inputs in either form, the model, and the ordinary one that it equals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dedup_storage.reader import Column, DedupBatch
from dedup_storage.reader.flat import take_rows
from dedup_storage.training import CountWeightedBatchNorm1d
from dedup_storage.training.cross_attention import DedupTransformer, EncodedContexts
from examples._data import Columns
from examples._models import ItemTable

__all__ = ["DcatRanker", "Inputs", "area_under_curve"]


@dataclass(frozen=True)
class Inputs:
    """What the model reads of R requests and B impressions.

    Attributes:
        history: R lists of item ids, the newest events of each request.
        items: (B,) item ids.
        inverse: (B,) int64 request of each impression.
        counts: (R,) int64 impressions of each request.
        labels: (B,) 0 or 1.
    """

    history: Column
    items: Tensor
    inverse: Tensor
    counts: Tensor
    labels: Tensor

    @classmethod
    def of(cls, batch: DedupBatch, columns: Columns, length: int) -> Inputs:
        """Of a batch, deduplicated or flat."""
        column = batch[columns.history]
        whole = Column(column.ids(), column.offsets)
        lengths = whole.lengths.clamp(max=length)
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        shift = (column.offsets[1:] - lengths - offsets[:-1]).repeat_interleave(lengths)  # type: ignore[index]
        newest = whole.values[torch.arange(len(shift), device=shift.device) + shift]
        labels = columns.positives(batch).to(torch.get_default_dtype())
        return cls(Column(newest, offsets), batch.item_ids(), batch.inverse_indices, batch.counts(), labels)

    @classmethod
    def join(cls, parts: Sequence[Inputs]) -> Inputs:
        """Several batches as one."""
        requests, tokens, inverse, offsets = 0, 0, [], [parts[0].offsets[:1]]
        for part in parts:
            inverse.append(part.inverse + requests)
            offsets.append(part.offsets[1:] + tokens)
            requests, tokens = requests + len(part.counts), tokens + len(part.history.values)
        history = Column(torch.cat([p.history.values for p in parts]), torch.cat(offsets))
        items, counts, labels = (torch.cat([getattr(p, n) for p in parts]) for n in ("items", "counts", "labels"))
        return cls(history, items, torch.cat(inverse), counts, labels)

    @property
    def offsets(self) -> Tensor:
        """(R + 1,) where each history begins."""
        if self.history.offsets is None:
            raise TypeError("a history is a list")
        return self.history.offsets

    def of_requests(self, places: Sequence[int]) -> Inputs:
        """The contexts of some requests, without candidates."""
        rows = torch.tensor(places, dtype=torch.int64, device=self.items.device)
        none = self.items[:0]
        return Inputs(take_rows(self.history, rows), none, none, self.counts[rows], self.labels[:0])


class _RowNorm(nn.Module):
    """Batch norm of a layer that sees B rows, with the statistics of all ranks.

    ``nn.SyncBatchNorm`` refuses a CPU. Counted once each, rows give its results there, over gloo, by the norm that is
    made for request rows; parameters and buffers bear the same names.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm: nn.Module = CountWeightedBatchNorm1d(width)
        if torch.cuda.is_available() and dist.is_initialized():
            self.norm = nn.SyncBatchNorm(width)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, C) -> (B, C)."""
        counted = isinstance(self.norm, CountWeightedBatchNorm1d)
        out: Tensor = self.norm(rows, torch.ones_like(rows[:, 0], dtype=torch.int64)) if counted else self.norm(rows)
        return out


class DcatRanker(nn.Module):
    """Probability that an impression is a positive: the candidate attends to its request's history.

    A summary of the history, normalised over the R requests with their counts as weights, stands before its events. The
    head sees B rows.

    Args:
        width: Width of all vectors, a multiple of 4.
        layers: Layers of the transformer.
        length: Newest events of a history.
    """

    def __init__(self, width: int, layers: int, length: int) -> None:
        super().__init__()
        self.items = ItemTable(1 << 14, width)
        self.ages = nn.Embedding(length, width)
        self.summary = CountWeightedBatchNorm1d(width)
        self.transformer = DedupTransformer(width, heads=4, layers=layers)
        self.head = nn.Sequential(nn.Linear(width, width), _RowNorm(width), nn.ReLU(), nn.Linear(width, 1))

    def context(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Tokens (T + R, width) and their offsets: the summary, then the events."""
        offsets, lengths = inputs.offsets, inputs.history.lengths
        requests = len(lengths)
        owners = torch.repeat_interleave(torch.arange(requests, device=offsets.device), lengths)
        steps = torch.arange(len(owners), device=offsets.device)
        events = self.items(inputs.history.values) + self.ages(offsets[1:][owners] - 1 - steps)
        sums = events.new_zeros(requests, events.shape[1]).index_add(0, owners, events)
        summaries = self.summary(sums / lengths.clamp(min=1).unsqueeze(1), inputs.counts)
        bounds = offsets + torch.arange(requests + 1, device=offsets.device)
        rows = torch.cat([summaries, events])
        places = torch.cat([bounds[:-1], steps + owners + 1])
        return torch.empty_like(rows).index_copy(0, places, rows), bounds

    def encode(self, inputs: Inputs) -> EncodedContexts:
        """The context side, once for each request."""
        return self.transformer.encode(*self.context(inputs))

    def score(self, inputs: Inputs, contexts: EncodedContexts) -> Tensor:
        """(B,) logits of candidates that read encoded contexts."""
        states: Tensor = self.transformer(self.items(inputs.items), contexts, inputs.inverse)
        logits: Tensor = self.head(states).squeeze(1)
        return logits

    def forward(self, inputs: Inputs, expanded: bool = False) -> Tensor:
        """(B,) logits.

        Args:
            inputs: Of a batch; of a flat one (R = B) for the ordinary form.
            expanded: Whether each candidate stands behind a copy of its context in an ordinary transformer.
        """
        if not expanded:
            return self.score(inputs, self.encode(inputs))
        tokens, offsets = self.context(inputs)
        states = self.transformer.expanded(tokens, offsets, self.items(inputs.items), inputs.inverse)
        logits: Tensor = self.head(states).squeeze(1)
        return logits

    def loss(self, inputs: Inputs, expanded: bool = False) -> Tensor:
        """Binary cross-entropy, such that its mean over ranks is the mean over the impressions of all of them."""
        logits = self(inputs, expanded)
        total = torch.tensor([float(len(logits))], device=logits.device)
        ranks = 1
        if dist.is_initialized():
            dist.all_reduce(total)
            ranks = dist.get_world_size()
        summed = F.binary_cross_entropy_with_logits(logits, inputs.labels, reduction="sum")
        return summed * ranks / total.to(summed.dtype)


def area_under_curve(scores: Tensor, labels: Tensor) -> float:
    """Probability that a positive scores above a negative, ties counting a half; ``nan`` without one of the two.

    Example: area_under_curve([0.1, 0.8, 0.4], [0, 1, 1]) -> 1.0
    """
    positive, negative = scores[labels > 0], scores[labels <= 0].sort().values
    if not len(positive) or not len(negative):
        return float("nan")
    below = torch.searchsorted(negative, positive, side="left") + torch.searchsorted(negative, positive, side="right")
    return float(below.double().mean() / 2 / len(negative))
