"""A list column of a batch whose rows are windows of elements that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dedup_storage.reader.column import Column, dtype_text, list_places, taken
from dedup_storage.training.attention.windows import Windows
from dedup_storage.words import counted

__all__ = ["SharedLists"]


@dataclass(frozen=True)
class SharedLists:
    """Lists of R requests, each of whose elements the batch has once.

    Events of a user lie together, oldest first where the log has them so, as long as they came from one block of
    requests; a user whose requests came from two (of two days, or of the border of two windows) has two such stretches.

    Attributes:
        values: (E,) the elements; as of ``Column``.
        starts, ends: (R,) int64, request r holds values[starts[r]:ends[r]]; windows overlap.
        valid: (R,) bool, False where the list is null; ``None`` when none is.
        element_valid: (E,) bool, the same for elements.
        vocabulary: The strings behind codes.
    """

    values: Tensor
    starts: Tensor
    ends: Tensor
    valid: Tensor | None = None
    element_valid: Tensor | None = None
    vocabulary: tuple[Any, ...] | None = None

    def __repr__(self) -> str:
        """Shapes and dtypes, never values."""
        named = {"values": self.values, "starts": self.starts, "ends": self.ends}
        named |= {n: t for n, t in (("valid", self.valid), ("element_valid", self.element_valid)) if t is not None}
        parts = [f"{name}={dtype_text(tensor)} {tuple(tensor.shape)}" for name, tensor in named.items()]
        if self.vocabulary is not None:
            parts.append(f"vocabulary={counted(len(self.vocabulary), 'string')}")
        if self.values.device.type != "cpu":
            parts.append(f"device={self.values.device}")
        return f"SharedLists({', '.join(parts)})"

    @property
    def windows(self) -> Windows:
        """What candidates attend to, for ``attend`` and ``DedupTransformer.shared``."""
        return Windows(self.starts, self.ends)

    def lists(self) -> Column:
        """The same as lists with elements of their own: a gather on the device of the tensors, which it waits for."""
        offsets, places = list_places(self.starts, self.ends - self.starts)
        elements = None if self.element_valid is None else self.element_valid[places]
        return Column(taken(self.values, places), offsets, self.valid, elements, self.vocabulary)
