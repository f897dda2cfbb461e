"""A window's list columns.

Short lists are put in order once, so that what a batch takes of them is a slice. Long lists stay where Arrow decoded
them and are copied once, from there into the batches' buffers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.decode.encode import Form, Scalars, encode_scalars, is_text, joined
from dedup_storage.reader.decode.event_rows import Spans
from dedup_storage.reader.decode.rows import RowOrder, gather_runs

__all__ = ["ElementRuns", "Lists", "encode_lists"]

# Lists of fewer bytes are put in order with all others of the window: a copy each would cost more than their bytes.
_LONG_BYTES = 4096
# The same for views, which are gathered element by element.
_LONG_VIEW_BYTES = 1024


class ElementRuns(NamedTuple):
    """Runs of list elements, each in one source, that follow one another in a batch.

    Attributes:
        sources: (n,) number of each run's source.
        starts: (n,) its first element there.
        stops: (n,) its last, exclusive.
    """

    sources: Int64
    starts: Int64
    stops: Int64


class Covered(NamedTuple):
    """Elements that some rows have, each once, and where each row's stand among them.

    Attributes:
        runs: The elements, which follow one another.
        starts, ends: (n,) first element of each row and last, exclusive.
    """

    runs: ElementRuns
    starts: Int64
    ends: Int64

    def __len__(self) -> int:
        return int((self.runs.stops - self.runs.starts).sum())


@dataclass(frozen=True)
class Lists:
    """A list column, n rows in the window's order.

    Attributes:
        offsets: (n + 1,) where each row's elements begin, were they laid one after the other.
        sources: Where the elements lie.
        run_rows: (runs + 1,) first row of each run of rows that lie together in one source, and n.
        run_source: (runs,) its source.
        run_start: (runs,) its first element there.
    """

    offsets: Int64
    sources: tuple[Scalars, ...]
    run_rows: Int64
    run_source: Int64
    run_start: Int64

    def laid_as(self, others: Iterable[Lists]) -> Lists:
        """The column with the very arrays of another one whose rows lie as its own do; itself where there is none.

        Parallel lists lie alike: what is found of one's rows then holds for all, see ``place``.
        """
        for other in others:
            if self._lies_as(other):
                return replace(
                    self,
                    offsets=other.offsets,
                    run_rows=other.run_rows,
                    run_source=other.run_source,
                    run_start=other.run_start,
                )
        return self

    def _lies_as(self, other: Lists) -> bool:
        if self.offsets[-1] != other.offsets[-1] or len(self.run_rows) != len(other.run_rows):
            return False
        if [len(source.values) for source in self.sources] != [len(source.values) for source in other.sources]:
            return False
        parts = ((x.offsets, x.run_rows, x.run_source, x.run_start) for x in (self, other))
        return all(map(np.array_equal, *parts))

    @property
    def place(self) -> int:
        """The same number for columns that share their arrays, while these are there."""
        return id(self.offsets)

    @cached_property
    def bounds(self) -> memoryview:
        """``offsets``, of which single numbers are taken."""
        return self.offsets.data

    @property
    def dtype(self) -> torch.dtype:
        """Of the elements' tensor."""
        return self.sources[0].form[0]

    def count(self, first: int, last: int) -> int:
        """Elements of the rows ``first`` to ``last``."""
        return self.bounds[last] - self.bounds[first]

    def has_nulls(self, first: int, last: int) -> bool:
        """Whether an element of the rows ``first`` to ``last`` is null."""
        if all(source.valid is None for source in self.sources):
            return False
        return any(s.valid is not None and not s.valid[a:b].all() for s, a, b in self.pieces(first, last))

    def pieces(self, first: int, last: int) -> list[tuple[Scalars, int, int]]:
        """Where the elements of the rows ``first`` to ``last`` lie: source, first and last (exclusive) element.

        At least one piece, which may be empty.
        """
        if len(self.run_start) == 1:
            start = int(self.run_start[0])
            return [(self.sources[int(self.run_source[0])], start + self.bounds[first], start + self.bounds[last])]
        runs = self.runs(first, last)
        found = zip(runs.sources.tolist(), runs.starts.tolist(), runs.stops.tolist(), strict=True)
        return [(self.sources[s], a, b) for s, a, b in found] or [(self.sources[0], 0, 0)]

    def covered(self, first: int, last: int) -> Covered:
        """The elements of the rows ``first`` to ``last``, those that several rows share once."""
        rows = np.arange(first, last)
        run = np.searchsorted(self.run_rows, rows, side="right") - 1
        sizes = np.diff(self.offsets[first : last + 1])
        # Elements of two sources never touch.
        bases = offsets_from_lengths([len(source.values) + 1 for source in self.sources])
        start = self.run_start[run] + self.offsets[rows] - self.offsets[self.run_rows[run]]
        address = bases[self.run_source[run]] + start
        there = np.flatnonzero(sizes)
        spans = Spans.covering(address[there], sizes[there])
        starts = np.zeros(len(rows), dtype=np.int64)
        starts[there] = spans.places(address[there])
        source = np.searchsorted(bases, spans.starts, side="right") - 1
        begin = spans.starts - bases[source]
        return Covered(ElementRuns(source, begin, begin + np.diff(spans.offsets)), starts, starts + sizes)

    def runs(self, first: int, last: int) -> ElementRuns:
        """The same as arrays, none for no rows."""
        if first >= last:
            none = np.empty(0, dtype=np.int64)
            return ElementRuns(none, none, none)
        low = int(self.run_rows.searchsorted(first, side="right")) - 1
        high = int(self.run_rows.searchsorted(last, side="left"))
        rows = self.run_rows[low : high + 1].copy()
        rows[0], rows[-1] = first, last
        bounds = self.offsets[rows]
        starts = self.run_start[low:high] + (bounds[:-1] - self.offsets[self.run_rows[low:high]])
        return ElementRuns(self.run_source[low:high], starts, starts + (bounds[1:] - bounds[:-1]))


def encode_lists(
    chunks: Sequence[pa.Array], order: RowOrder | None, form: Form, *, keep: bool = False
) -> tuple[Lists, npt.NDArray[np.bool_] | None]:
    """Encode consecutive arrays of lists, at least one, and put their rows in another order.

    Args:
        chunks: The arrays.
        order: The new order; ``None`` leaves them.
        form: Of their elements.
        keep: Whether elements stay where they are, however short the lists.

    Returns:
        The column, and which rows are not null, as decoded (in their old order); ``None`` when none is null.
    """
    parts = [_parts(chunk) for chunk in chunks]
    lengths = np.concatenate([sizes for *_, sizes in parts])
    views = pa.types.is_large_list_view(chunks[0].type)
    valid = None
    if any(chunk.null_count for chunk in chunks):
        valid = np.concatenate([chunk.is_valid().to_numpy(zero_copy_only=False) for chunk in chunks])
    if len(parts) > 1 and is_text(parts[0][0].type):
        # Codes need one vocabulary.
        sources = encode_scalars([values for values, *_ in parts], form)
        before = offsets_from_lengths([len(values) for values, *_ in parts])
        starts = np.concatenate([begin + first for (_, begin, _), first in zip(parts, before.tolist(), strict=False)])
        source = np.zeros(len(lengths), dtype=np.int64)
    else:
        sources = [encode_scalars([values], form)[0] for values, *_ in parts]
        starts = np.concatenate([begin for _, begin, _ in parts])
        source = np.repeat(np.arange(len(parts)), [len(begin) for _, begin, _ in parts])
    if order is None:
        return _lists(lengths, sources, source, starts), valid
    rows = order.rows
    total = int(lengths.sum()) * sources[0].form[1]
    if keep or total >= (_LONG_VIEW_BYTES if views else _LONG_BYTES) * len(lengths):
        return _lists(lengths[rows], sources, source[rows], starts[rows]), valid
    together = joined(sources)
    old, new = offsets_from_lengths(lengths), lengths[rows]
    if views:
        # Views may share elements: each takes its own.
        first = offsets_from_lengths([len(s.values) for s in sources])[source[rows]] + starts[rows]
        gathered = together.take(ranges(first, new))
    else:
        element_valid = None if together.valid is None else gather_runs(together.valid, old, rows)
        gathered = Scalars(gather_runs(together.values, old, rows), element_valid, together.vocabulary)
    return (
        _lists(new, [gathered], np.zeros(len(new), dtype=np.int64), offsets_from_lengths(new)[:-1]),
        valid,
    )


def _parts(chunk: pa.Array) -> tuple[pa.Array, Int64, Int64]:
    """Elements of lists, or of views of lists; where each begins, and its elements."""
    if pa.types.is_large_list_view(chunk.type):
        return chunk.values, chunk.offsets.to_numpy(), chunk.sizes.to_numpy()
    values, offsets = list_parts(chunk)
    return values, offsets[:-1], offsets[1:] - offsets[:-1]


def _lists(lengths: Int64, sources: Sequence[Scalars], source: Int64, starts: Int64) -> Lists:
    new = np.ones(len(lengths), dtype=np.bool_)
    new[1:] = (source[1:] != source[:-1]) | (starts[1:] != starts[:-1] + lengths[:-1])
    first = np.flatnonzero(new)
    run_rows = np.append(first, len(lengths))
    return Lists(offsets_from_lengths(lengths), tuple(sources), run_rows, source[first], starts[first])
