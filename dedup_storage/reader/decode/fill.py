"""Copying slices of windows into a batch's buffer, each byte once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.reader.decode.columns import Columns, Kind
from dedup_storage.reader.decode.lists import Lists
from dedup_storage.reader.decode.vocabulary import compact

__all__ = ["Filler", "Present", "Slice"]

Array = npt.NDArray[Any]
Octets = npt.NDArray[np.uint8]


class Slice(NamedTuple):
    """Consecutive rows of one window's columns of one grain."""

    columns: Columns
    first: int
    last: int


class Present(NamedTuple):
    """What a batch holds at one grain: columns, those with null rows, lists with null elements."""

    kind: Kind
    nulls: tuple[str, ...]
    element_nulls: tuple[str, ...]


class Filler:
    """Fills a buffer section after section, in the order of its layout.

    Args:
        octets: The buffer.
        bases: First byte of each section, then of what follows the last.
    """

    def __init__(self, octets: Octets, bases: Sequence[int]) -> None:
        self._octets = octets
        # Slices of a memoryview cost a third of an array's.
        self._raw = octets.data
        self._bases: Iterator[int] = iter(bases)
        self._base, self._end = 0, next(self._bases)

    def _next(self, tensors: int = 1) -> int:
        """Begin the next section; gives the bytes from one of its tensors to the next."""
        self._base, self._end = self._end, next(self._bases)
        return (self._end - self._base) // tensors

    def whole(self, array: Array) -> None:
        """Fill a section with one array."""
        self._next()
        self._copy(self._base, array)

    def columns(self, slices: Sequence[Slice], present: Present) -> dict[str, tuple[Any, ...]]:
        """Fill the sections of one grain's columns; gives the strings behind the codes of each that has any."""
        kind, vocabularies = present.kind, {}
        for number in range(len(kind.groups)):
            self._group(slices, number)
        if kind.coded:
            stride = self._next(len(kind.coded))
            for place, name in enumerate(kind.coded):
                vocabularies[name] = self._codes(slices, name, self._base + place * stride)
        if present.nulls:
            stride = self._next(len(present.nulls))
            for place, name in enumerate(present.nulls):
                at = self._base + place * stride
                for columns, first, last in slices:
                    at = self._copy(at, columns.mask(name, first, last))
        for name in kind.list_names:
            lists = [(columns.lists[name], first, last) for columns, first, last in slices]
            words = self._lists(lists, name in present.element_nulls)
            if words is not None:
                vocabularies[name] = words
        return vocabularies

    def _copy(self, at: int, array: Array) -> int:
        """Copy an array; gives the byte behind it."""
        end = at + array.nbytes
        if array.nbytes:
            self._raw[at:end] = array.view(np.uint8).data
        return end

    def _group(self, slices: Sequence[Slice], number: int) -> None:
        """Values of columns of one width, all columns of a slice in one go."""
        tensors = len(slices[0].columns.groups[number].values)
        stride = self._next(tensors)
        section = self._octets[self._base : self._end].reshape(tensors, stride)
        at = 0
        for columns, first, last in slices:
            group = columns.groups[number]
            width = group.width
            end = at + (last - first) * width
            section[:, at:end] = group.octets[:, first * width : last * width]
            at = end

    def _codes(self, slices: Sequence[Slice], name: str, at: int) -> tuple[Any, ...]:
        """Codes of one column; gives the strings behind them."""
        pieces = [(columns.coded[name], first, last) for columns, first, last in slices]
        words = [column.vocabulary for column, _, _ in pieces if column.vocabulary is not None]
        codes, vocabulary = compact([column.values[first:last] for column, first, last in pieces], words)
        self._copy(at, codes)
        return vocabulary

    def _lists(self, lists: Sequence[tuple[Lists, int, int]], element_nulls: bool) -> tuple[Any, ...] | None:
        """A list column; gives the strings behind its codes, if it has any."""
        self._next()
        at, total = self._base, 0
        for column, first, last in lists:
            bounds = column.offsets[first : last + 1]
            # Only the first slice brings the 0 that offsets begin with.
            shifted = (bounds if at == self._base else bounds[1:]) - (bounds[0] - total)
            at = self._copy(at, shifted)
            total = int(shifted[-1]) if len(shifted) else total
        self._next()
        vocabulary = None
        if lists[0][0].sources[0].vocabulary is None:
            at = self._base
            for column, first, last in lists:
                at = self._elements(column, first, last, at)
        else:
            pieces = [piece for column, first, last in lists for piece in column.pieces(first, last)]
            words = [source.vocabulary for source, _, _ in pieces if source.vocabulary is not None]
            codes, vocabulary = compact([source.values[a:b] for source, a, b in pieces], words)
            self._copy(self._base, codes)
        if element_nulls:
            self._next()
            at = self._base
            for column, first, last in lists:
                for source, a, b in column.pieces(first, last):
                    mask = source.valid[a:b] if source.valid is not None else np.ones(b - a, dtype=np.bool_)
                    at = self._copy(at, mask)
        return vocabulary

    def _elements(self, column: Lists, first: int, last: int, at: int) -> int:
        """Elements of a list column's rows, from wherever they lie; gives the byte behind them."""
        width = column.sources[0].form[1]
        if len(column.run_start) == 1:
            ((source, start, stop),) = column.pieces(first, last)
            end = at + (stop - start) * width
            self._raw[at:end] = source.raw[start * width : stop * width]
            return end
        runs = column.runs(first, last)
        starts, stops = runs.starts * width, runs.stops * width
        places = offsets_from_lengths(stops - starts) + at
        raw, sources = self._raw, [source.raw for source in column.sources]
        for source, start, stop, place, end in zip(
            runs.sources.tolist(),
            starts.tolist(),
            stops.tolist(),
            places[:-1].tolist(),
            places[1:].tolist(),
            strict=True,
        ):
            raw[place:end] = sources[source][start:stop]
        return int(places[-1])
