"""Event dates of a user bucket: what changed, what is stored, what a run computes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

__all__ = ["Cell", "whole_month"]


@dataclass(frozen=True)
class Cell:
    """Event dates of one user bucket.

    Attributes:
        low, high: First and last event date; ``None`` when a file does not say.
        bucket: User bucket; ``None`` for all.
    """

    low: date | None
    high: date | None
    bucket: int | None

    def to_list(self) -> list[str | int | None]:
        """Plain values for JSON."""
        ends = (d.isoformat() if d is not None else None for d in (self.low, self.high))
        return [*ends, self.bucket]

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Cell:
        """The cell of ``to_list``."""
        low, high = (date.fromisoformat(v) if v is not None else None for v in values[:2])
        return cls(low, high, values[2])

    def stretched(self, days: int | None) -> Cell:
        """The cell and the days after it (``None``: all days after it)."""
        if self.high is None or days == 0:
            return self
        return replace(self, high=None if days is None else self.high + timedelta(days=days))

    def overlaps(self, other: Cell) -> bool:
        """Whether a row could lie in both."""
        if self.bucket is not None and other.bucket is not None and self.bucket != other.bucket:
            return False
        below = self.high is not None and other.low is not None and self.high < other.low
        above = self.low is not None and other.high is not None and self.low > other.high
        return not (below or above)


def whole_month(first: date) -> tuple[date, date]:
    """The first and the last day of a month, of its first."""
    return first, (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
