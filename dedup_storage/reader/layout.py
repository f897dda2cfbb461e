"""Where a batch's tensors lie in its buffer.

Columns of one width and one number of rows lie side by side in a section, so that a batch says with a handful of
counts where all of its tensors are, and a section is filled in one go however many columns it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dedup_storage.schema import Grain

__all__ = [
    "ENDS", "IMPRESSIONS", "INVERSE", "LENGTHS", "REQUESTS", "STARTS", "Field", "FieldView", "Layout", "Section",
    "packed",
]  # fmt: skip

LENGTHS = "lengths"
INVERSE = "inverse_indices"
# Parts of a list column whose rows share elements.
STARTS, ENDS = "starts", "ends"
# The first two counts of every batch: R and B. List columns follow, each with its number of elements.
REQUESTS, IMPRESSIONS = 0, 1
_ALIGN = 64
Counts = tuple[int, ...]


class FieldView(NamedTuple):
    """Where one tensor lies in the batch's buffer: its first byte, and its number of elements."""

    column: str
    grain: Grain | None
    part: str
    dtype: torch.dtype
    start: int
    size: int


class Field(NamedTuple):
    """One tensor of a batch: a part of a column, or, without a grain, of the batch itself."""

    column: str
    part: str
    dtype: torch.dtype


class Section(NamedTuple):
    """Tensors of one width and one number of elements, one after the other.

    Attributes:
        elements: Which of the batch's counts gives the elements of each.
        more: Elements beside these: 1 for offsets.
        width: Bytes of an element.
        fields: The tensors.
    """

    elements: int
    more: int
    width: int
    fields: tuple[Field, ...]

    def stride(self, counts: Sequence[int]) -> int:
        """Bytes from one tensor to the next."""
        return -(-(counts[self.elements] + self.more) * self.width // _ALIGN) * _ALIGN


class Layout:
    """What tensors a batch has, the same object for all batches that have the same.

    Args:
        grains: Column -> its grain, requests first.
        sections: What lies one after the other.
        types: Column -> Arrow's name of its type (of a list its elements'), where a tensor's dtype does not tell it:
            times, dates, texts.
    """

    def __init__(
        self, grains: Mapping[str, Grain], sections: Iterable[Section], types: Mapping[str, str] | None = None
    ) -> None:
        self.grains, self.types = dict(grains), dict(types or {})
        self.sections = tuple(sections)
        # Of each section what its bytes follow from, for every batch anew.
        self._shapes = [(s.elements, s.more, s.width, len(s.fields)) for s in self.sections]
        # Column -> part -> its section, and its place there.
        self._places: dict[str, dict[str, tuple[int, int]]] = {}
        for number, section in enumerate(self.sections):
            for place, field in enumerate(section.fields):
                self._places.setdefault(field.column, {})[field.part] = (number, place)
        self._text: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._text is None:
            described = [
                [
                    s.elements,
                    s.more,
                    s.width,
                    [[f.column, f.part, str(f.dtype).removeprefix("torch.")] for f in s.fields],
                ]
                for s in self.sections
            ]
            self._text = json.dumps([self.grains, described, self.types])
        return _parse, (self._text,)

    def bases(self, counts: Sequence[int]) -> list[int]:
        """First byte of each section, and the number of bytes."""
        bases, end = [0], 0
        for elements, more, width, tensors in self._shapes:
            end += -(-(counts[elements] + more) * width // _ALIGN) * _ALIGN * tensors
            bases.append(end)
        return bases

    def of(self, column: str, counts: Sequence[int]) -> dict[str, FieldView]:
        """Where the parts of a column lie; none where there is no such column.

        Args:
            column: Its name; the empty text stands for the batch itself.
            counts: R, B and the elements of each list column.
        """
        places = self._places.get(column)
        if places is None:
            return {}
        bases, grain = self.bases(counts), self.grains.get(column)
        found = {}
        for part, (number, place) in places.items():
            section = self.sections[number]
            start = bases[number] + place * section.stride(counts)
            size = counts[section.elements] + section.more
            found[part] = FieldView(column, grain, part, section.fields[place].dtype, start, size)
        return found

    def views(self, counts: Sequence[int]) -> tuple[FieldView, ...]:
        """Where everything lies: what the batch itself has, then its columns in the order of ``grains``."""
        return tuple(view for name in ("", *self.grains) for view in self.of(name, counts).values())


@lru_cache(maxsize=256)
def _parse(text: str) -> Layout:
    """The layout that a pickled batch names: one object for all batches of its kind."""
    grains, sections, types = json.loads(text)
    return Layout(
        {name: Grain(grain) for name, grain in grains.items()},
        [
            Section(elements, more, width, tuple(Field(c, part, getattr(torch, dtype)) for c, part, dtype in fields))
            for elements, more, width, fields in sections
        ],
        types,
    )


def packed(
    grains: Mapping[str, Grain], tensors: Sequence[tuple[str, str, Tensor]], types: Mapping[str, str]
) -> tuple[Tensor, Layout, Counts]:
    """A buffer of its own for a batch's tensors, on their device.

    Args:
        grains: Column -> its grain, requests first.
        tensors: Column, part and tensor; those of the batch itself first, R and B elements long.
        types: As ``Layout`` has them.

    Returns:
        The buffer, what lies in it, and the counts that say where.
    """
    # Every tensor has a section and a count of its own, the first two being those of the index.
    sizes = tuple(tensor.numel() for _, _, tensor in tensors)
    layout = Layout(
        grains,
        [
            Section(count, 0, tensor.element_size(), (Field(name, part, tensor.dtype),))
            for count, (name, part, tensor) in enumerate(tensors)
        ],
        types,
    )
    buffer = torch.empty(layout.bases(sizes)[-1], dtype=torch.uint8, device=tensors[0][2].device)
    for view, (*_, tensor) in zip(layout.views(sizes), tensors, strict=True):
        place = buffer[view.start : view.start + view.size * view.dtype.itemsize]
        place.view(view.dtype).copy_(tensor)
    return buffer, layout, sizes
