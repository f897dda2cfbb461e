"""An additive bias by the age of an event."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dedup_storage.errors import UsageError

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

    Raises:
        UsageError: there is no class, or the first one has no length.
    """

    def __init__(self, heads: int, classes: int = 32, unit: int = 1_000_000) -> None:
        super().__init__()
        if classes < 1 or unit < 1:
            raise UsageError(
                "the ages have no classes", expected="classes and unit of 1 or more", got=f"{classes} and {unit}"
            )
        self.unit, self.classes = unit, classes
        self.table = nn.Parameter(torch.zeros(heads, classes))

    @property
    def bounds(self) -> list[int]:
        """Least age of each class but the first; classes beyond what an int64 holds have none."""
        return [age for age in (self.unit << power for power in range(self.classes - 1)) if age < 1 << 63]

    def age_class(self, ages: Tensor) -> Tensor:
        """int64 class of each age, any shape; an age below zero counts as zero."""
        bounds = torch.tensor(self.bounds, dtype=torch.int64, device=ages.device)
        return torch.bucketize(ages, bounds, right=True)

    def forward(self, ages: Tensor) -> Tensor:
        """(H, ...) bias of ages (...)."""
        return self.table[:, self.age_class(ages)]
