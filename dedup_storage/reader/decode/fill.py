"""Copying slices of windows into a batch's buffer, each byte once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dedup_storage.dedup.expand import offsets_from_lengths
from dedup_storage.reader.decode.columns import Columns, Group, Present
from dedup_storage.reader.decode.encode import Scalars
from dedup_storage.reader.decode.lists import Covered, ElementRuns, Lists
from dedup_storage.reader.decode.vocabulary import compact

__all__ = ["Covers", "Filler", "Slice"]

Array = npt.NDArray[Any]
Octets = npt.NDArray[np.uint8]
# What was encoded, and from which of its elements to which.
Piece = tuple[Scalars, int, int]
# Of list columns whose rows share elements, those of each slice.
Covers = Mapping[str, Sequence[Covered]]
# Fewer columns are copied one by one for less than it takes to describe them as one array.
_FEW = 6


class Slice(NamedTuple):
    """Consecutive rows of one window's columns of one grain."""

    columns: Columns
    first: int
    last: int


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
        self._bases, self._section = bases, -1
        # Of columns that lie alike, which are filled while their windows are held.
        self._found: dict[tuple[int, int, int], ElementRuns] = {}

    def _next(self) -> int:
        """Begin the next section; gives its first byte."""
        self._section += 1
        return self._bases[self._section]

    def _stride(self, tensors: int) -> int:
        """Bytes from one tensor of the section to the next."""
        return (self._bases[self._section + 1] - self._bases[self._section]) // tensors

    def whole(self, array: Array) -> None:
        """Fill a section with one array."""
        self._copy(self._next(), array)

    def columns(self, slices: Sequence[Slice], present: Present, covers: Covers) -> dict[str, tuple[Any, ...]]:
        """Fill the sections of one grain's columns; gives the strings behind the codes of each that has any.

        Args:
            slices: Rows that follow one another.
            present: What the batch holds of them.
            covers: Of lists whose rows share elements, the elements of each slice; empty where none do.
        """
        kind = present.kind
        vocabularies: dict[str, tuple[Any, ...]] = {}
        for number, group in enumerate(kind.groups):
            self._group([(c.groups[number], first, last) for c, first, last in slices], len(group))
        if kind.coded:
            base = self._next()
            stride = self._stride(len(kind.coded))
            for place, name in enumerate(kind.coded):
                vocabularies[name] = self._codes(slices, name, base + place * stride)
        if present.nulls:
            base = self._next()
            stride = self._stride(len(present.nulls))
            for place, name in enumerate(present.nulls):
                at = base + place * stride
                for columns, first, last in slices:
                    at = self._copy(at, columns.mask(name, first, last))
        for name in kind.list_names:
            lists = [(columns.lists[name], first, last) for columns, first, last in slices]
            if covers:
                words = self._shared(lists, covers[name], name in present.element_nulls)
            else:
                words = self._lists(lists, name in present.element_nulls)
            if words is not None:
                vocabularies[name] = words
        return vocabularies

    def _copy(self, at: int, array: Array) -> int:
        """Copy an array; gives the byte behind it."""
        end = at + array.nbytes
        if end > at:
            self._raw[at:end] = array.view(np.uint8).data
        return end

    def _group(self, slices: Sequence[tuple[Group, int, int]], tensors: int) -> None:
        """Values of columns of one width."""
        base, at = self._next(), 0
        stride = self._stride(tensors)
        for group, first, last in slices:
            start, size = first * group.width, (last - first) * group.width
            if tensors < _FEW:
                to = base + at
                for _ in range(tensors):
                    self._raw[to : to + size] = group.raw[start : start + size]
                    to, start = to + stride, start + group.row_bytes
            else:
                section = self._octets[base : base + tensors * stride].reshape(tensors, stride)
                section[:, at : at + size] = group.octets[:, start : start + size]
            at += size

    def _codes(self, slices: Sequence[Slice], name: str, at: int) -> tuple[Any, ...]:
        """Codes of one column; gives the strings behind them."""
        pieces = [(columns.coded[name], first, last) for columns, first, last in slices]
        words = [column.vocabulary for column, _, _ in pieces if column.vocabulary is not None]
        codes, vocabulary = compact([column.values[first:last] for column, first, last in pieces], words)
        self._copy(at, codes)
        return vocabulary

    def _lists(self, lists: Sequence[tuple[Lists, int, int]], element_nulls: bool) -> tuple[Any, ...] | None:
        """A list column; gives the strings behind its codes, if it has any."""
        base, total = self._next(), 0
        at = base
        for column, first, last in lists:
            bounds = column.offsets[first : last + 1]
            # Only the first slice brings the 0 that offsets begin with.
            shifted = (bounds if at == base else bounds[1:]) - (bounds[0] - total)
            at = self._copy(at, shifted)
            total = int(shifted[-1]) if len(shifted) else total
        coded = lists[0][0].sources[0].vocabulary is not None

        def pieces() -> list[Piece]:
            return [piece for column, first, last in lists for piece in column.pieces(first, last)]

        def copy(at: int) -> None:
            for column, first, last in lists:
                at = self._elements(column, first, last, at)

        return self._values(pieces, None if coded else copy, element_nulls)

    def _shared(
        self, lists: Sequence[tuple[Lists, int, int]], covers: Sequence[Covered], element_nulls: bool
    ) -> tuple[Any, ...] | None:
        """A list column whose rows share elements; gives the strings behind its codes, if it has any."""
        before = offsets_from_lengths(list(map(len, covers))).tolist()
        at = self._next()
        stride = self._stride(2)
        ends = at + stride
        for covered, shift in zip(covers, before, strict=False):
            at = self._copy(at, covered.starts + shift)
            ends = self._copy(ends, covered.ends + shift)
        columns = [column for column, _, _ in lists]
        coded = columns[0].sources[0].vocabulary is not None

        def pieces() -> list[Piece]:
            found = [
                (column.sources[source], a, b)
                for column, (runs, *_) in zip(columns, covers, strict=True)
                for source, a, b in zip(*(part.tolist() for part in runs), strict=True)
            ]
            return found or [(columns[0].sources[0], 0, 0)]

        def copy(at: int) -> None:
            for column, (runs, *_) in zip(columns, covers, strict=True):
                at = self._runs(column, runs, at)

        return self._values(pieces, None if coded else copy, element_nulls)

    def _values(
        self, pieces: Callable[[], Sequence[Piece]], copy: Callable[[int], None] | None, element_nulls: bool
    ) -> tuple[Any, ...] | None:
        """Elements and their masks; gives the strings behind their codes, if they are codes.

        Args:
            pieces: Tells where the elements lie, in order; asked for codes and masks alone.
            copy: Copies elements that are no codes, from a byte on; ``None`` for codes.
            element_nulls: Whether the batch has masks of elements.
        """
        at, vocabulary = self._next(), None
        if copy is not None:
            copy(at)
        else:
            found = pieces()
            words = [source.vocabulary for source, _, _ in found if source.vocabulary is not None]
            codes, vocabulary = compact([source.values[a:b] for source, a, b in found], words)
            self._copy(at, codes)
        if element_nulls:
            at = self._next()
            for source, a, b in pieces():
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
        place = (column.place, first, last)
        if place not in self._found:
            self._found[place] = column.runs(first, last)
        return self._runs(column, self._found[place], at)

    def _runs(self, column: Lists, runs: ElementRuns, at: int) -> int:
        """Runs of a column's elements; gives the byte behind them."""
        width = column.sources[0].form[1]
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
