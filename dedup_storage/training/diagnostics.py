"""What reading by request does to a batch, against independent impressions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from dedup_storage.errors import UsageError
from dedup_storage.training.labels import design_effect, intraclass_correlation, pearson
from dedup_storage.training.masks import NULL_ID, negative_mask

__all__ = ["BatchStatistics", "OrderReport", "RequestBatch", "diagnose_order"]

# Rows of the pair matrix that are in memory at once.
_ROWS = 1024


class RequestBatch(Protocol):
    """The part of ``DedupBatch`` that is looked at."""

    @property
    def num_impressions(self) -> int:
        """B."""

    @property
    def inverse_indices(self) -> Tensor:
        """(B,) int64."""

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Names of the labels."""

    def user_ids(self, level: Any = ...) -> Tensor:
        """(B,) int64 at level ``impression``."""

    def item_ids(self) -> Tensor:
        """(B,) int64."""

    def __getitem__(self, name: str) -> Any:
        """A column with ``values`` (B,) and ``valid``."""


@dataclass(frozen=True)
class BatchStatistics:
    """Batches in one order; shares are over all pairs of all batches.

    A pair is a positive impression i and another impression j of its batch, which in-batch losses take for a negative.
    It is false when somewhere in what was read the user of i has item j as a positive. A missing item equals no item,
    and is a negative of nobody, as in the loss.

    Attributes:
        batches: Batches looked at.
        impressions: Mean impressions of a batch.
        users: Mean distinct users of a batch.
        items: Mean distinct items of a batch.
        false_negatives: Share of the pairs that are false; NaN without a pair.
        masked: Share of the pairs that the user mask removes.
        false_negatives_masked: Share of false pairs among those the mask leaves; NaN if it leaves none.
        without_negatives: Share of the positive impressions that the mask leaves without a negative.
        neighbour_correlation: Correlation of the labels of two impressions that follow one another.
    """

    batches: int
    impressions: float
    users: float
    items: float
    false_negatives: float
    masked: float
    false_negatives_masked: float
    without_negatives: float
    neighbour_correlation: float


@dataclass(frozen=True)
class OrderReport:
    """The batches as they were read, and the same impressions drawn independently into batches of the same sizes.

    Attributes:
        as_read: Batches of whole requests.
        independent: The same impressions in random order.
        dedup_factor: B / R of what was read.
        request_correlation: Correlation of two labels of one request (ICC).
        user_correlation: Correlation of two labels of one user (ICC).
        design_effect: B impressions of whole requests count as B / this many independent ones.
    """

    as_read: BatchStatistics
    independent: BatchStatistics
    dedup_factor: float
    request_correlation: float
    user_correlation: float
    design_effect: float


def diagnose_order(
    batches: Iterable[RequestBatch],
    *,
    label: str | None = None,
    threshold: float = 0.0,
    max_batches: int = 50,
    seed: int = 0,
) -> OrderReport:
    """Measure what request order does to in-batch negatives and to the independence of labels.

    Call it once with a reader that shuffles and once with one that does not (``shuffle=False``) to see what shuffling
    by request does; ``independent`` is what shuffling by impression would do. Every pair is looked at: the cost grows
    with B^2 per batch, up to 0.7 s of processor time for 4,096 impressions that are all positive.

    Args:
        batches: ``DedupBatch``es, for example a ``DataLoader``.
        label: Label column; ``None`` takes the first label, and without labels every impression is a positive.
        threshold: An impression is positive when its label is greater. A null label is unknown: no positive.
        max_batches: Most batches to read.
        seed: Seed of the independent order.

    Raises:
        UsageError: no batch holds an impression, or the label does not hold one number for each.
    """
    seen = _collect(batches, label, max_batches)
    positive = torch.ones_like(seen.labels, dtype=torch.bool) if seen.unlabelled else seen.labels > threshold
    known = _Known(seen, positive)
    order = torch.randperm(len(seen.users), generator=torch.Generator().manual_seed(seed))
    return OrderReport(
        as_read=_measure(seen, positive, known),
        independent=_measure(seen.permuted(order), positive[order], known),
        dedup_factor=len(seen.users) / len(seen.requests.unique()),
        request_correlation=intraclass_correlation(seen.labels, seen.requests),
        user_correlation=intraclass_correlation(seen.labels, seen.users),
        design_effect=design_effect(seen.labels, seen.requests),
    )


@dataclass(frozen=True)
class _Seen:
    """Impressions one batch after the other: users and items numbered from 0, labels with NaN for unknown ones."""

    sizes: tuple[int, ...]
    users: Tensor
    items: Tensor
    missing: Tensor
    requests: Tensor
    labels: Tensor
    unlabelled: bool

    def permuted(self, order: Tensor) -> _Seen:
        users, items, missing, requests, labels = (
            t[order] for t in (self.users, self.items, self.missing, self.requests, self.labels)
        )
        return _Seen(self.sizes, users, items, missing, requests, labels, self.unlabelled)

    def batches(self) -> list[slice]:
        bounds = [0, *torch.tensor(self.sizes).cumsum(0).tolist()]
        return [slice(a, b) for a, b in pairwise(bounds)]


def _labels(batch: RequestBatch, label: str | None) -> Tensor:
    name = label if label is not None else next(iter(batch.label_columns), None)
    if name is None:
        return torch.full((batch.num_impressions,), math.nan, dtype=torch.float64)
    column = batch[name]
    if column.values.shape != (batch.num_impressions,):
        raise UsageError(
            f"the label {name} does not hold one number for each impression",
            expected=f"({batch.num_impressions},)",
            got=str(tuple(column.values.shape)),
        )
    values: Tensor = column.values.double().cpu()
    return values if column.valid is None else values.masked_fill(~column.valid.cpu(), math.nan)


def _collect(batches: Iterable[RequestBatch], label: str | None, max_batches: int) -> _Seen:
    users, items, requests, labels, first = [], [], [], [], 0
    unlabelled = label is None
    for batch in islice(batches, max_batches):
        if batch.num_impressions == 0:
            continue
        users.append(batch.user_ids("impression").cpu())
        items.append(batch.item_ids().cpu())
        requests.append(batch.inverse_indices.cpu() + first)
        labels.append(_labels(batch, label))
        unlabelled = unlabelled and not batch.label_columns
        first = int(requests[-1].max()) + 1
    if not users:
        raise UsageError("there is nothing to diagnose: no batch holds an impression")
    user = torch.cat(users).unique(return_inverse=True)[1]
    ids = torch.cat(items)
    item, missing = ids.unique(return_inverse=True)[1], ids == NULL_ID
    return _Seen(tuple(len(u) for u in users), user, item, missing, torch.cat(requests), torch.cat(labels), unlabelled)


class _Known:
    """Which (user, item) pairs are positive somewhere in what was read."""

    def __init__(self, seen: _Seen, positive: Tensor) -> None:
        self._width = int(seen.items.max()) + 1
        self._codes = (seen.users * self._width + seen.items)[positive].unique()

    def table(self, users: Tensor, items: Tensor) -> Tensor:
        """(n,) users, (m,) items -> (n, m) bool."""
        if len(self._codes) == 0:
            return torch.zeros(len(users), len(items), dtype=torch.bool)
        codes = users[:, None] * self._width + items[None, :]
        place = torch.searchsorted(self._codes, codes).clamp(max=len(self._codes) - 1)
        return self._codes[place] == codes


def _measure(seen: _Seen, positive: Tensor, known: _Known) -> BatchStatistics:
    pairs = false = kept = false_kept = lonely = anchors = 0
    left, right = [], []
    users_in, items_in = [], []
    for place in seen.batches():
        users, items, labels = seen.users[place], seen.items[place], seen.labels[place]
        left.append(labels[:-1])
        right.append(labels[1:])
        users_in.append(len(users.unique()))
        own_items, item_of = items.unique(return_inverse=True)
        missing = seen.missing[place]
        items_in.append(len(own_items) - int(missing.any()))
        known_items = items.masked_fill(missing, NULL_ID)
        for rows in positive[place].nonzero(as_tuple=True)[0].split(_ROWS):
            own_users, user_of = users[rows].unique(return_inverse=True)
            wrong = known.table(own_users, own_items)[user_of][:, item_of] & ~missing
            mask = negative_mask(users[rows], known_items[rows], users, known_items, rows)
            # The impression itself is in all three, unless it has no item; it is no pair.
            anchors += len(rows)
            pairs += len(rows) * (len(users) - 1)
            own = len(rows) - int(missing[rows].sum())
            false += int(wrong.sum()) - own
            kept += int(mask.sum()) - len(rows)
            false_kept += int((wrong & mask).sum()) - own
            lonely += int((mask.sum(1) == 1).sum())
    number = len(seen.sizes)
    return BatchStatistics(
        batches=number,
        impressions=len(seen.users) / number,
        users=sum(users_in) / number,
        items=sum(items_in) / number,
        false_negatives=_share(false, pairs),
        masked=_share(pairs - kept, pairs),
        false_negatives_masked=_share(false_kept, kept),
        without_negatives=_share(lonely, anchors),
        neighbour_correlation=pearson(torch.cat(left), torch.cat(right)),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
