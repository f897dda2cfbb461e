"""Which candidates of a batch are true negatives."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NULL_ID", "negative_mask"]

# The id of what is missing: the least number of 64 bits. It stands for nothing, so it equals no item and no user.
NULL_ID = -(2**63)


def negative_mask(
    users: Tensor, items: Tensor, candidate_users: Tensor, candidate_items: Tensor, positions: Tensor
) -> Tensor:
    """M_ij = [i = j] or (u_i != u_j and y_i != y_j).

    Another impression of the same user, or of the same item, is no negative. A batch of whole requests is full of them;
    a batch of independent impressions has almost none. Users are compared by ids that mean the same on every rank,
    never by inverse indices: a user may have several requests, and the indices of two ranks collide. A candidate
    without an item (``NULL_ID``) is a negative of nobody.

    Args:
        users: (n,) user of each row.
        items: (n,) item of each row.
        candidate_users: (N,) user of each candidate.
        candidate_items: (N,) item of each candidate.
        positions: (n,) int64, the candidate that is row i itself.

    Returns:
        (n, N) bool, True at ``positions``.
    """
    mask = (users[:, None] != candidate_users[None, :]) & (items[:, None] != candidate_items[None, :])
    mask &= (candidate_items != NULL_ID)[None, :]
    mask[torch.arange(len(users), device=mask.device), positions] = True
    return mask
