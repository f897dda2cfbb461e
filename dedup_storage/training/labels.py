"""How alike the labels of neighbouring impressions are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["design_effect", "intraclass_correlation", "pearson"]


def pearson(left: Tensor, right: Tensor) -> float:
    """Pearson correlation of two (n,) tensors over the places where neither is NaN; NaN when one is constant there."""
    known = ~(left.isnan() | right.isnan())
    x, y = left[known].double(), right[known].double()
    if len(x) < 2:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    scale = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / scale if scale > 0 else math.nan


def _groups(labels: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Known labels, the group of each as a number from 0, and the size of each group."""
    known = ~labels.isnan()
    _, member, sizes = groups[known].unique(return_inverse=True, return_counts=True)
    return labels[known].double(), member, sizes.double()


def intraclass_correlation(labels: Tensor, groups: Tensor) -> float:
    """Correlation of two labels of one group, ICC(1) by one-way analysis of variance (Fisher 1925, § 38).

    (MSB - MSW) / (MSB + (n0 - 1) MSW), with the mean squares between and within k groups and
    n0 = (N - sum n_g^2 / N) / (k - 1), the size of a group where sizes differ (Donner 1986).

    Args:
        labels: (N,) floating point; NaN is left out.
        groups: (N,) integer group of each.

    Returns:
        1 when groups are constant and differ, about 0 when grouping says nothing; NaN with fewer than two groups,
        without a group of two, or with constant labels.
    """
    values, member, sizes = _groups(labels, groups)
    number, count = len(values), len(sizes)
    if count < 2 or number == count:
        return math.nan
    means = torch.zeros(count, dtype=torch.float64, device=values.device).index_add_(0, member, values) / sizes
    between = float((sizes * (means - values.mean()).square()).sum()) / (count - 1)
    within = float((values - means[member]).square().sum()) / (number - count)
    size = (number - float(sizes.square().sum()) / number) / (count - 1)
    total = between + (size - 1) * within
    return (between - within) / total if total > 0 else math.nan


def design_effect(labels: Tensor, groups: Tensor) -> float:
    """By how much correlated labels widen the variance of a mean: 1 + (n_w - 1) ICC, n_w = sum n_g^2 / N (Kish 1965).

    B impressions count as B / design effect independent ones. Arguments as in ``intraclass_correlation``.
    """
    values, _, sizes = _groups(labels, groups)
    if len(values) == 0:
        return math.nan
    return 1 + (float(sizes.square().sum()) / len(values) - 1) * intraclass_correlation(labels, groups)
