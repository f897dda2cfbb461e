"""From slices of windows to one batch in one buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from dedup_storage.dedup.expand import inverse_from_lengths, offsets_from_lengths
from dedup_storage.dedup.runs import Int64
from dedup_storage.reader.batch import INVERSE, LENGTHS, DedupBatch, FieldView, Progress
from dedup_storage.reader.decode.encode import Forms, Scalars, tensor_type
from dedup_storage.reader.decode.vocabulary import compact
from dedup_storage.reader.decode.window import ElementRuns, Lists, Window
from dedup_storage.schema import Grain

__all__ = ["BatchPacker", "Part"]

_ALIGN = 64
Array = npt.NDArray[Any]
# Columns of a window, and the first and last (exclusive) row of them.
Slice = tuple[dict[str, "Scalars | Lists"], int, int]


@dataclass(frozen=True)
class Part:
    """What a batch takes of one window: consecutive requests, and consecutive impressions."""

    window: Window
    requests: tuple[int, int]
    impressions: tuple[int, int]
    lengths: Int64


@dataclass(frozen=True)
class BatchPacker:
    """Packs windows' slices into batches.

    Attributes:
        user: User key.
        item: Item column.
        labels: Label columns.
        sequences: History lists.
        forms: Form of each column.
    """

    user: str
    item: str
    labels: tuple[str, ...]
    sequences: tuple[str, ...]
    forms: Forms

    def pack(self, parts: Sequence[Part], progress: Progress) -> DedupBatch:
        """One batch.

        Args:
            parts: Slices that follow one another, at least one.
            progress: Where the batch stands.
        """
        lengths = parts[0].lengths if len(parts) == 1 else np.concatenate([p.lengths for p in parts])
        buffer = _Buffer()
        buffer.add("", None, LENGTHS, lengths)
        buffer.add("", None, INVERSE, inverse_from_lengths(lengths))
        vocabularies: dict[str, tuple[Any, ...]] = {}
        requests = [(p.window.requests, *p.requests) for p in parts]
        impressions = [(p.window.impressions, *p.impressions) for p in parts]
        for grain, slices in ((Grain.REQUEST, requests), (Grain.IMPRESSION, impressions)):
            for name, column in slices[0][0].items():
                add = _add_scalars if isinstance(column, Scalars) else _add_lists
                vocabulary = add(buffer, name, grain, slices)
                if vocabulary is not None:
                    vocabularies[name] = vocabulary
        made, views = buffer.make()
        return DedupBatch(
            buffer=made,
            views=views,
            vocabularies=vocabularies,
            user_column=self.user,
            item_column=self.item,
            label_columns=self.labels,
            sequence_columns=self.sequences,
            progress=progress,
        )


def _add_scalars(buffer: _Buffer, name: str, grain: Grain, slices: Sequence[Slice]) -> tuple[Any, ...] | None:
    """Add a scalar column; returns the strings behind its codes."""
    columns: list[tuple[Scalars, int, int]] = [(columns[name], a, b) for columns, a, b in slices]  # type: ignore[misc]
    first, low, high = columns[0]
    words = first.vocabulary
    if words is None or (len(columns) == 1 and len(words) <= high - low):
        vocabulary = None if words is None else words.values
        buffer.add_pieces(name, grain, "values", columns)
    else:
        codes, vocabulary = compact(
            [c.values[a:b] for c, a, b in columns], [c.vocabulary for c, _, _ in columns if c.vocabulary is not None]
        )
        buffer.add(name, grain, "values", codes)
    if len(columns) > 1 or first.valid is not None:
        _add_mask(buffer, name, grain, "valid", [(c.valid, a, b) for c, a, b in columns])
    return vocabulary


def _add_lists(buffer: _Buffer, name: str, grain: Grain, slices: Sequence[Slice]) -> tuple[Any, ...] | None:
    """Add a list column; returns the strings behind its codes."""
    columns: list[tuple[Lists, int, int]] = [(columns[name], a, b) for columns, a, b in slices]  # type: ignore[misc]
    sources: list[Scalars] = []
    runs: list[ElementRuns] = []
    offsets: list[Int64] = []
    total = 0
    for column, first, last in columns:
        bounds = column.offsets[first : last + 1]
        offsets.append((bounds[1:] if offsets else bounds) - (bounds[0] - total))
        total += int(bounds[-1] - bounds[0])
        runs.append(column.runs(first, last, len(sources)))
        sources += column.sources
    together = runs[0] if len(runs) == 1 else ElementRuns(*(np.concatenate(part) for part in zip(*runs, strict=True)))
    vocabulary = None
    if sources[0].vocabulary is None:
        buffer.add_runs(name, grain, "values", sources, together)
    else:
        pieces = together.of(sources)
        words = [s.vocabulary for s, _, _ in pieces if s.vocabulary is not None]
        codes, vocabulary = compact([s.values[a:b] for s, a, b in pieces], words)
        buffer.add(name, grain, "values", codes)
    if any(s.valid is not None for s in sources):
        masks = [(s.valid, a, b) for s, a, b in together.of(sources)]
        _add_mask(buffer, name, grain, "element_valid", masks)
    buffer.add(name, grain, "offsets", offsets[0] if len(offsets) == 1 else np.concatenate(offsets))
    if any(c.valid is not None for c, _, _ in columns):
        _add_mask(buffer, name, grain, "valid", [(c.valid, a, b) for c, a, b in columns])
    return vocabulary


def _add_mask(
    buffer: _Buffer, name: str, grain: Grain, part: str, slices: Sequence[tuple[Array | None, int, int]]
) -> None:
    """Add validity, where anything is null."""
    for mask, a, b in slices:
        if mask is not None and not mask[a:b].all():
            break
    else:
        return
    masks = [mask[a:b] if mask is not None else np.ones(b - a, dtype=np.bool_) for mask, a, b in slices]
    buffer.add(name, grain, part, np.concatenate(masks))


class _Buffer:
    """Collects what is to be copied, then copies each once into one buffer."""

    def __init__(self) -> None:
        # Bytes, the first and the last (exclusive) to copy, and where to. There may be one for each request: slices
        # of a memoryview cost a third of an array's.
        self._copies: list[tuple[memoryview, int, int, int, int]] = []
        self._views: list[FieldView] = []
        self._end = 0

    def add(self, column: str, grain: Grain | None, part: str, array: Array) -> None:
        """Add a whole array."""
        end = self._end + array.nbytes
        self._copies.append((array.view(np.uint8).data, 0, array.nbytes, self._end, end))
        self._add_view(column, grain, part, tensor_type(array.dtype), len(array))

    def add_pieces(
        self, column: str, grain: Grain | None, part: str, pieces: Sequence[tuple[Scalars, int, int]]
    ) -> None:
        """Add pieces of one dtype, one after the other: values, first and last (exclusive) element."""
        dtype, width = pieces[0][0].form
        place = start = self._end
        for source, first, last in pieces:
            end = place + (last - first) * width
            self._copies.append((source.raw, first * width, last * width, place, end))
            place = end
        self._add_view(column, grain, part, dtype, (place - start) // width)

    def add_runs(
        self, column: str, grain: Grain | None, part: str, sources: Sequence[Scalars], runs: ElementRuns
    ) -> None:
        """Add many pieces of sources of one dtype."""
        dtype, width = sources[0].form
        starts, stops = runs.starts * width, runs.stops * width
        places = offsets_from_lengths(stops - starts) + self._end
        raw = [source.raw for source in sources]
        self._copies += zip(
            [raw[s] for s in runs.sources.tolist()] if len(raw) > 1 else repeat(raw[0], len(starts)),
            starts.tolist(),
            stops.tolist(),
            places[:-1].tolist(),
            places[1:].tolist(),
            strict=True,
        )
        self._add_view(column, grain, part, dtype, int(places[-1] - self._end) // width)

    def _add_view(self, column: str, grain: Grain | None, part: str, dtype: torch.dtype, size: int) -> None:
        self._views.append(FieldView(column, grain, part, dtype, self._end, size))
        self._end += -(-size * dtype.itemsize // _ALIGN) * _ALIGN

    def make(self) -> tuple[torch.Tensor, tuple[FieldView, ...]]:
        """The buffer, and what lies where in it."""
        buffer = _allocate(self._end)
        target = buffer.numpy().data
        for raw, first, last, place, end in self._copies:
            target[place:end] = raw[first:last]
        return buffer, tuple(self._views)


def _allocate(num_bytes: int) -> torch.Tensor:
    if get_worker_info() is None or num_bytes == 0:
        return torch.empty(num_bytes, dtype=torch.uint8)
    # Written where the main process can map it, the batch crosses without another copy.
    storage = torch.UntypedStorage._new_shared(num_bytes)
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (num_bytes,), (1,))
