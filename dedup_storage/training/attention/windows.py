"""Which keys a request's candidates attend to: an interval of the flat keys for each request."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dedup_storage.errors import UsageError

__all__ = ["Moments", "Windows"]


@dataclass(frozen=True)
class Windows:
    """One interval of the flat keys for each of R requests; intervals may overlap, and may be empty.

    Attributes:
        starts: (R,) int64, first key of each request's context.
        ends: (R,) int64, the place behind its last key.
        packed: Whether the intervals lie one behind another without gaps, as the offsets of a list column do.
    """

    starts: Tensor
    ends: Tensor
    packed: bool = False

    @classmethod
    def of_offsets(cls, offsets: Tensor) -> Windows:
        """The windows of a list column: request r has the keys offsets[r] to offsets[r + 1] - 1.

        Args:
            offsets: (R + 1,) int64.
        """
        return cls(offsets[:-1], offsets[1:], packed=True)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> Tensor:
        """(R,) int64 keys of each request."""
        return self.ends - self.starts

    def check(self, keys: int, inverse_indices: Tensor) -> None:
        """Refuse what would read another request's context, or none. Waits for the device once, where all is well.

        Args:
            keys: T.
            inverse_indices: (B,) request of each query.

        Raises:
            UsageError: an interval ends before it begins or leaves the keys, or an index has no request.
        """
        if self.starts.shape != self.ends.shape or self.starts.dim() != 1:
            raise UsageError(
                "the windows are no intervals", got=f"{tuple(self.starts.shape)}, {tuple(self.ends.shape)}"
            )
        if self._fit(keys, inverse_indices):
            return
        wrong = ((self.starts < 0) | (self.ends < self.starts) | (self.ends > keys)).sum()
        outside = ((inverse_indices < 0) | (inverse_indices >= len(self))).sum()
        intervals, indices = torch.stack([wrong, outside]).tolist()
        if intervals:
            raise UsageError(f"the windows leave the keys in {intervals} requests", expected=f"0 to {keys}")
        if indices:
            raise UsageError(f"{indices} inverse indices name no request", expected=f"0 to {len(self) - 1}")

    def _fit(self, keys: int, inverse_indices: Tensor) -> bool:
        """Whether all is well, in fewer operations than it takes to count what is wrong."""
        if not len(self) or not len(inverse_indices):
            return False
        low, high = torch.aminmax(inverse_indices)
        shortest = (self.ends - self.starts).amin()
        facts = torch.stack([self.starts.amin(), shortest, low, self.ends.amax(), high]).tolist()
        return min(facts[:3]) >= 0 and facts[3] <= keys and facts[4] < len(self)


@dataclass(frozen=True)
class Moments:
    """When keys happened and when queries ask, in one unit, such as microseconds.

    Attributes:
        events: (T,) int64 time of each key.
        at: (B,) int64 time of each query.
        hide_later: Whether a query sees only keys of its own time or before. Requests that share a context need it:
            the longest of their histories holds what happened after the earlier ones.
    """

    events: Tensor
    at: Tensor
    hide_later: bool = True
