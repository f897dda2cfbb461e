"""An additive bias by the age of an event."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["AgeBias"]


class AgeBias(nn.Module):
    """A learned bias for each head and age class, added to the scores.

    Class 0 holds ages below one ``unit``; class i those of [2^(i-1), 2^i) units, the last one all older ones: fine
    where an hour matters, coarse where a month does (the logarithmic buckets of T5's relative positions, Raffel et al.
    2020).

    Args:
        heads: H.
        classes: Number of classes, N.
        unit: Length of the first class, in the unit of the times.

    Attributes:
        table: (H, N) parameter, zeros at first.
    """

    def __init__(self, heads: int, classes: int = 32, unit: int = 1_000_000) -> None:
        super().__init__()
        self.unit, self.classes = unit, classes
        self.table = nn.Parameter(torch.zeros(heads, classes))

    def age_class(self, ages: Tensor) -> Tensor:
        """int64 class of each age, any shape; an age below zero counts as zero."""
        units = torch.div(ages.clamp(min=0), self.unit, rounding_mode="floor")
        whole = units.clamp(min=1)
        power = torch.floor(torch.log2(whole.to(torch.float64))).to(torch.int64)
        # The logarithm of 2^n - 1 is rounded to n for large n.
        power = power - (torch.bitwise_left_shift(torch.ones_like(power), power) > whole).to(torch.int64)
        return torch.where(units > 0, power + 1, 0).clamp(max=self.classes - 1)

    def forward(self, ages: Tensor) -> Tensor:
        """(H, ...) bias of ages (...)."""
        return self.table[:, self.age_class(ages)]
