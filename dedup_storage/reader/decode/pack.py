"""From slices of windows to one batch in one buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import SchemaError
from dedup_storage.reader.batch import DedupBatch
from dedup_storage.reader.blocks import allocate
from dedup_storage.reader.decode.columns import Present
from dedup_storage.reader.decode.encode import Forms
from dedup_storage.reader.decode.fill import Covers, Filler, Slice
from dedup_storage.reader.decode.lists import Covered
from dedup_storage.reader.decode.window import Window
from dedup_storage.reader.layout import ENDS, IMPRESSIONS, INVERSE, LENGTHS, REQUESTS, STARTS, Field, Layout, Section
from dedup_storage.reader.progress import Progress
from dedup_storage.schema import Grain

__all__ = ["BatchPacker", "Part"]


class Part(NamedTuple):
    """What a batch takes of one window: consecutive requests, and consecutive impressions."""

    window: Window
    requests: tuple[int, int]
    impressions: tuple[int, int]
    lengths: Int64

    @classmethod
    def of(cls, window: Window, first: int, last: int) -> Part:
        """Whole requests ``first`` to ``last`` (exclusive) of a window."""
        bounds = window.bounds
        return cls(window, (first, last), (bounds[first], bounds[last]), window.lengths[first:last])


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

        Raises:
            SchemaError: a column changes its type from one window to the next.
        """
        lengths = parts[0].lengths if len(parts) == 1 else np.concatenate([p.lengths for p in parts])
        inverse = _numbers(len(lengths)).repeat(lengths)
        requests = [Slice(p.window.requests, *p.requests) for p in parts]
        impressions = [Slice(p.window.impressions, *p.impressions) for p in parts]
        own, theirs = _present(requests), _present(impressions)
        covers = _covers(requests) if self.forms.shared else {}
        counts = (len(lengths), len(inverse), *_elements(requests, covers), *_elements(impressions, {}))
        layout = _layout(own, theirs, self.forms.shared)
        bases = layout.bases(counts)
        buffer, octets = allocate(bases[-1])
        fill = Filler(octets, bases)
        fill.whole(lengths)
        fill.whole(inverse)
        vocabularies: dict[str, tuple[Any, ...]] = {}
        for slices, present, shared in ((requests, own, covers), (impressions, theirs, {})):
            vocabularies |= fill.columns(slices, present, shared)
        return DedupBatch(
            buffer=buffer,
            layout=layout,
            sizes=counts,
            vocabularies=vocabularies,
            user_column=self.user,
            item_column=self.item,
            label_columns=self.labels,
            sequence_columns=self.sequences,
            progress=progress,
        )


def _numbers(count: int) -> Int64:
    """0, 1, ... ``count`` - 1, of numbers that are kept."""
    return _counted(1 << count.bit_length())[:count]


@lru_cache(maxsize=32)
def _counted(count: int) -> Int64:
    return np.arange(count, dtype=np.int64)


def _present(slices: Sequence[Slice]) -> Present:
    kind = slices[0].columns.kind
    if len(slices) == 1:
        columns, first, last = slices[0]
        if columns.whole:
            return columns.whole
        nulls = columns.nulls(first, last)
    else:
        for columns, _, _ in slices[1:]:
            if columns.kind is not kind:
                raise SchemaError(
                    "a batch takes rows of two windows whose columns differ",
                    expected=kind.described(),
                    got=columns.kind.described(),
                    fix="Let arrow_transform give the same columns of the same types for every window.",
                )
        found = {name for columns, first, last in slices for name in columns.nulls(first, last)}
        nulls = tuple(name for name in kind.names if name in found)
    element_nulls = tuple(name for name in kind.list_names if any(c.lists[name].has_nulls(a, b) for c, a, b in slices))
    return Present(kind, nulls, element_nulls)


def _covers(slices: Sequence[Slice]) -> Covers:
    """Of each list column the elements that rows of each slice have, each once."""
    found: dict[tuple[int, ...], list[Covered]] = {}
    covers = {}
    for name in slices[0].columns.kind.list_names:
        lists = [(c.lists[name], a, b) for c, a, b in slices]
        place = tuple(column.place for column, _, _ in lists)
        if place not in found:
            found[place] = [column.covered(a, b) for column, a, b in lists]
        covers[name] = found[place]
    return covers


def _elements(slices: Sequence[Slice], covers: Covers) -> list[int]:
    """Elements of each list column."""
    if covers:
        return [sum(map(len, covers[name])) for name in slices[0].columns.kind.list_names]
    return [sum(c.lists[name].count(a, b) for c, a, b in slices) for name in slices[0].columns.kind.list_names]


@lru_cache(maxsize=256)
def _layout(requests: Present, impressions: Present, shared: bool) -> Layout:
    sections = [
        Section(REQUESTS, 0, 8, (Field("", LENGTHS, torch.int64),)),
        Section(IMPRESSIONS, 0, 8, (Field("", INVERSE, torch.int64),)),
    ]
    lists = IMPRESSIONS + 1
    for rows, present in ((REQUESTS, requests), (IMPRESSIONS, impressions)):
        sections += present.kind.sections(rows)
        if present.nulls:
            sections.append(Section(rows, 0, 1, tuple(Field(n, "valid", torch.bool) for n in present.nulls)))
        for name, dtype in present.kind.lists:
            if shared and rows == REQUESTS:
                sections.append(Section(rows, 0, 8, tuple(Field(name, part, torch.int64) for part in (STARTS, ENDS))))
            else:
                sections.append(Section(rows, 1, 8, (Field(name, "offsets", torch.int64),)))
            sections.append(Section(lists, 0, dtype.itemsize, (Field(name, "values", dtype),)))
            if name in present.element_nulls:
                sections.append(Section(lists, 0, 1, (Field(name, "element_valid", torch.bool),)))
            lists += 1
    grains = dict.fromkeys(requests.kind.names, Grain.REQUEST) | dict.fromkeys(impressions.kind.names, Grain.IMPRESSION)
    return Layout(grains, sections, {**dict(requests.kind.types), **dict(impressions.kind.types)})
