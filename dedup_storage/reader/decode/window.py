"""A window: decoded requests and their impressions, encoded once, in their shuffled order.

Whatever is small for each row is put in order once, so that what a batch takes of it is a slice. Long lists stay
where Arrow decoded them and are copied once, from there into the batches' buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup.expand import offsets_from_lengths, ranges
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.decode.encode import Form, Forms, Scalars, encode_scalars, is_list, is_text

__all__ = ["ElementRuns", "Lists", "Window", "encode_window"]

# Lists of fewer bytes are put in order with all others of the window: a copy each would cost more than their bytes.
_LONG_BYTES = 4096


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

    def of(self, sources: Sequence[Scalars]) -> list[tuple[Scalars, int, int]]:
        """The runs one by one, at least one."""
        pieces = list(zip(self.sources.tolist(), self.starts.tolist(), self.stops.tolist(), strict=True))
        return [(sources[s], a, b) for s, a, b in pieces] if pieces else [(sources[0], 0, 0)]


@dataclass(frozen=True)
class Lists:
    """A list column, n rows in the window's order.

    Attributes:
        offsets: (n + 1,) where each row's elements begin, were they laid one after the other.
        valid: (n,) bool, False where the list is null; ``None`` when none is.
        sources: Where the elements lie.
        run_rows: (runs + 1,) first row of each run of rows that lie together in one source, and n.
        run_source: (runs,) its source.
        run_start: (runs,) its first element there.
    """

    offsets: Int64
    valid: npt.NDArray[np.bool_] | None
    sources: tuple[Scalars, ...]
    run_rows: Int64
    run_source: Int64
    run_start: Int64

    def runs(self, first: int, last: int, base: int = 0) -> ElementRuns:
        """Where the elements of the rows ``first`` to ``last`` lie, sources numbered from ``base`` on."""
        if first >= last:
            none = np.empty(0, dtype=np.int64)
            return ElementRuns(none, none, none)
        low = int(np.searchsorted(self.run_rows, first, side="right")) - 1
        high = int(np.searchsorted(self.run_rows, last, side="left"))
        rows = self.run_rows[low : high + 1].copy()
        rows[0], rows[-1] = first, last
        bounds = self.offsets[rows]
        starts = self.run_start[low:high] + (bounds[:-1] - self.offsets[self.run_rows[low:high]])
        return ElementRuns(self.run_source[low:high] + base, starts, starts + (bounds[1:] - bounds[:-1]))


@dataclass(frozen=True)
class Window:
    """Requests and impressions of one window, in its order.

    Attributes:
        requests: Encoded columns, one row per request.
        impressions: Encoded columns, grouped by request in the order of ``requests``.
        offsets: (num_requests + 1,) request r has the impressions offsets[r] to offsets[r + 1].
    """

    requests: dict[str, Scalars | Lists]
    impressions: dict[str, Scalars | Lists]
    offsets: Int64


def encode_window(
    requests: pa.Table, impressions: pa.Table, lengths: Int64, order: Int64 | None, forms: Forms
) -> Window:
    """Encode a window and put its requests, and the impressions of each, in another order.

    Args:
        requests: One row per request, as decoded.
        impressions: Grouped by request, in the order of ``requests``.
        lengths: Impressions of each request.
        order: Which request comes first, second, ...; ``None`` leaves them.
        forms: Form of each column.
    """
    rows = None
    if order is not None:
        starts = offsets_from_lengths(lengths)[order]
        lengths = lengths[order]
        rows = ranges(starts, lengths)
    return Window(
        {name: _encode(requests[name], order, forms.of(name)) for name in requests.column_names},
        {name: _encode(impressions[name], rows, forms.of(name)) for name in impressions.column_names},
        offsets_from_lengths(lengths),
    )


def _encode(column: pa.ChunkedArray, rows: Int64 | None, form: Form) -> Scalars | Lists:
    chunks = column.chunks if column.num_chunks else [pa.array([], column.type)]
    if is_list(column.type):
        return _encode_lists(chunks, rows, form)
    encoded = encode_scalars(chunks, form)
    return encoded if rows is None else encoded.take(rows)


def _encode_lists(chunks: Sequence[pa.Array], rows: Int64 | None, form: Form) -> Lists:
    parts = [list_parts(chunk) for chunk in chunks]
    lengths = np.concatenate([np.diff(offsets) for _, offsets in parts])
    valid = None
    if any(chunk.null_count for chunk in chunks):
        valid = np.concatenate([chunk.is_valid().to_numpy(zero_copy_only=False) for chunk in chunks])
    if len(parts) > 1 and is_text(parts[0][0].type):
        # Codes need one vocabulary.
        sources = [encode_scalars([values for values, _ in parts], form)]
        starts, source = offsets_from_lengths(lengths)[:-1], np.zeros(len(lengths), dtype=np.int64)
    else:
        sources = [encode_scalars([values], form) for values, _ in parts]
        starts = np.concatenate([offsets[:-1] for _, offsets in parts])
        source = np.repeat(np.arange(len(parts)), [len(offsets) - 1 for _, offsets in parts])
    if rows is None:
        return _lists(lengths, valid, sources, source, starts)
    valid = None if valid is None else valid[rows]
    total = sum(s.values.nbytes for s in sources)
    if total >= _LONG_BYTES * len(lengths):
        return _lists(lengths[rows], valid, sources, source[rows], starts[rows])
    gathered = _gather(_concatenate(sources), offsets_from_lengths(lengths), rows)
    new = lengths[rows]
    return _lists(new, valid, [gathered], np.zeros(len(new), dtype=np.int64), offsets_from_lengths(new)[:-1])


def _lists(
    lengths: Int64, valid: npt.NDArray[np.bool_] | None, sources: Sequence[Scalars], source: Int64, starts: Int64
) -> Lists:
    offsets = offsets_from_lengths(lengths)
    new = np.ones(len(lengths), dtype=np.bool_)
    new[1:] = (source[1:] != source[:-1]) | (starts[1:] != starts[:-1] + lengths[:-1])
    first = np.flatnonzero(new)
    return Lists(offsets, valid, tuple(sources), np.append(first, len(lengths)), source[first], starts[first])


def _concatenate(sources: Sequence[Scalars]) -> Scalars:
    if len(sources) == 1:
        return sources[0]
    valid = None
    if any(s.valid is not None for s in sources):
        valid = np.concatenate(
            [s.valid if s.valid is not None else np.ones(len(s.values), dtype=np.bool_) for s in sources]
        )
    return Scalars(np.concatenate([s.values for s in sources]), valid, sources[0].vocabulary)


def _gather(elements: Scalars, offsets: Int64, rows: Int64) -> Scalars:
    """The elements of lists in another order, one after the other."""
    valid = None if elements.valid is None else _gather_array(elements.valid, offsets, rows)
    return Scalars(_gather_array(elements.values, offsets, rows), valid, elements.vocabulary)


def _gather_array(values: npt.NDArray[Any], offsets: Int64, rows: Int64) -> npt.NDArray[Any]:
    """``values[offsets[r] : offsets[r + 1]]`` for every r of ``rows``; a string of bytes is copied as a whole."""
    width = values.dtype.itemsize
    data = pa.py_buffer(np.ascontiguousarray(values))
    strings = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets * width), data]
    )
    taken = strings.take(pa.array(rows)).buffers()[2]
    return np.frombuffer(taken if taken is not None else b"", dtype=values.dtype)
