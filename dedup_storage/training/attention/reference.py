"""The plain form of the attention, one query after another as the formula has it: what others are held against."""

from __future__ import annotations

import torch
from torch import Tensor

from dedup_storage.training.attention.bias import AgeBias
from dedup_storage.training.attention.windows import Moments, Windows

__all__ = ["attend_plainly"]


def attend_plainly(
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
    """See ``attend``."""
    rows = []
    for b, request in enumerate(inverse_indices.tolist()):
        first, last = int(windows.starts[request]), int(windows.ends[request])
        k, v = keys[first:last], values[first:last]
        scores = torch.einsum("hd,lhd->hl", queries[b], k) * scale
        if moments is not None:
            ages = moments.at[b] - moments.events[first:last]
            if bias is not None:
                scores = scores + bias(ages).to(scores.dtype)
            if moments.hide_later:
                seen = ages >= 0
                scores, v = scores[:, seen], v[seen]
        if own is not None:
            scores = torch.cat([scores, ((queries[b] * own[0][b]).sum(-1) * scale).unsqueeze(1)], 1)
            v = torch.cat([v, own[1][b].unsqueeze(0)])
        rows.append(torch.einsum("hl,lhd->hd", torch.softmax(scores, 1), v) if scores.shape[1] else queries[b] * 0)
    return torch.stack(rows) if rows else queries * 0
