"""Sampled-softmax loss over in-batch candidates that is right for batches of whole requests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dedup_storage.errors import InverseIndexError, UsageError
from dedup_storage.training.masks import negative_mask
from dedup_storage.training.ranks import RankRows, sum_over_ranks, world_size

__all__ = ["InfoNCE", "user_masked_info_nce"]


@dataclass(frozen=True)
class InfoNCE:
    """A loss and what it was taken over. All are scalars on the vectors' device; the last three agree on every rank.

    Attributes:
        loss: float32 (float64 for float64 vectors); call ``backward()`` on it. Its mean over ranks is the loss of the
            whole batch, so that DistributedDataParallel, which averages gradients, gives those of one process that
            holds the whole batch. Where gradients are summed instead, divide it by the number of ranks.
        mean: The loss of the whole batch, for logging; no gradient.
        rows: int64 rows of all ranks that the mean is over.
        without_negatives: int64 rows among them that had no negative left; their loss is 0.
    """

    loss: Tensor
    mean: Tensor
    rows: Tensor
    without_negatives: Tensor


def user_masked_info_nce(
    queries: Tensor,
    items: Tensor,
    user_ids: Tensor,
    item_ids: Tensor,
    *,
    inverse_indices: Tensor | None = None,
    log_q: Tensor | None = None,
    positives: Tensor | None = None,
    temperature: float = 1.0,
    group: dist.ProcessGroup | None = None,
) -> InfoNCE:
    """InfoNCE over the candidates of all ranks, users masked, corrected for item popularity.

    With s_ij = <q_r(i), v_j> / temperature and s'_ij = s_ij - log Q(y_j):
    L_i = -log(e^{s'_ii} / sum_j M_ij e^{s'_ij}), M as in ``negative_mask``; the loss is the mean of L_i over the rows
    of all ranks. The correction is that of Yi et al. 2019 (RecSys, "Sampling-bias-corrected neural modeling for large
    corpus item recommendations"). Ranks may hold different numbers of rows, also none; all have to call it.

    Scores are computed once per request, R x N, and repeated for its impressions. The largest tensors are B x N:
    the masked scores (float32) and the mask. Without ``inverse_indices`` the queries are taken as B rows.

    Args:
        queries: (R, d) user vectors, one per request; (B, d) without ``inverse_indices``.
        items: (B, d) item vectors. Of all ranks they are gathered with their gradients.
        user_ids: (B,) int64, the same id for a user on every rank: ``batch.user_ids("impression")``.
        item_ids: (B,) int64, the same id for an item on every rank: ``batch.item_ids()``.
        inverse_indices: (B,) int64 in [0, R).
        log_q: (B,) log-probability that a candidate is this item, up to a constant; ``None`` corrects nothing.
        positives: (B,) bool, rows that have a loss; the others are candidates only. ``None`` takes all.
        temperature: Divides the scores.
        group: Process group; ``None`` is the default one, or this process alone.

    Raises:
        UsageError: shapes do not fit, ids are not integers, or the temperature is not positive.
        InverseIndexError: without ``inverse_indices``, queries are not B rows.
    """
    _check(queries, items, user_ids, item_ids, inverse_indices, log_q, positives, temperature)
    shares = RankRows.exchange(len(items), items.device, group)
    vectors = shares.gather(items)
    ids = shares.gather(torch.stack([user_ids.to(torch.int64), item_ids.to(torch.int64)], 1))
    wide = torch.float64 if queries.dtype == torch.float64 else torch.float32
    scores = (queries @ vectors.T).to(wide) / temperature
    if log_q is not None:
        scores = scores - shares.gather(log_q.detach().to(wide))
    rows = torch.arange(len(items), device=items.device) if positives is None else positives.nonzero(as_tuple=True)[0]
    scores = scores.index_select(0, rows if inverse_indices is None else inverse_indices[rows])
    own = rows + shares.first
    mask = negative_mask(user_ids[rows], item_ids[rows], ids[:, 0], ids[:, 1], own)
    masked = scores.masked_fill(~mask, float("-inf"))
    losses = masked.logsumexp(1) - scores.gather(1, own[:, None]).squeeze(1)

    local = losses.sum()
    lonely = (mask.sum(1) == 1).sum()
    # One collective for all three; float64 keeps counts exact.
    facts = torch.stack([local.detach().double(), lonely.double(), lonely.new_tensor(len(rows)).double()])
    total, without, count = sum_over_ranks(facts, group)
    divisor = count.clamp(min=1)
    return InfoNCE(
        loss=local * (world_size(group) / divisor).to(wide),
        mean=(total / divisor).to(wide),
        rows=count.to(torch.int64),
        without_negatives=without.to(torch.int64),
    )


def _check(
    queries: Tensor,
    items: Tensor,
    user_ids: Tensor,
    item_ids: Tensor,
    inverse_indices: Tensor | None,
    log_q: Tensor | None,
    positives: Tensor | None,
    temperature: float,
) -> None:
    if queries.dim() != 2 or items.dim() != 2 or queries.shape[1] != items.shape[1]:
        raise UsageError(
            "queries and items are not vectors of one width",
            expected="(R, d) and (B, d)",
            got=f"{tuple(queries.shape)} and {tuple(items.shape)}",
        )
    rows = len(items)
    per_impression = {
        "user_ids": user_ids,
        "item_ids": item_ids,
        "inverse_indices": inverse_indices,
        "log_q": log_q,
        "positives": positives,
    }
    for name, tensor in per_impression.items():
        if tensor is not None and tensor.shape != (rows,):
            raise UsageError(
                f"{name} does not hold one value for each item vector",
                expected=f"({rows},)",
                got=str(tuple(tensor.shape)),
                fix="Pass impression-grain values: batch.expand(x) makes them of request-grain ones.",
            )
    for name, tensor in (("user_ids", user_ids), ("item_ids", item_ids)):
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise UsageError(f"{name} are not integers", expected="int64", got=str(tensor.dtype))
    if positives is not None and positives.dtype != torch.bool:
        raise UsageError(
            "positives is not a mask", expected="bool", got=str(positives.dtype), fix="Compare: labels > 0."
        )
    if inverse_indices is None and len(queries) != rows:
        raise InverseIndexError(
            "there is not one query for each item vector",
            expected=f"{rows} rows",
            got=f"{len(queries)}",
            fix="Pass inverse_indices=batch.inverse_indices with queries of R rows.",
        )
    if not temperature > 0:
        raise UsageError("the temperature is not positive", expected="more than 0", got=str(temperature))
