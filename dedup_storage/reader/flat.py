"""A batch as a flat log would give it: every request column once per impression."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dedup_storage.reader.batch import DedupBatch
from dedup_storage.reader.column import Column, list_places, taken
from dedup_storage.reader.layout import INVERSE, LENGTHS, packed
from dedup_storage.schema import Grain

__all__ = ["flat_batch", "take_rows"]


def take_rows(column: Column, rows: Tensor) -> Column:
    """Rows of a column, list columns too.

    Args:
        column: n rows.
        rows: (m,) int64 in [0, n), on the column's device.

    Returns:
        m rows; a list's elements are copied for each row that takes it.
    """
    valid = None if column.valid is None else column.valid[rows]
    if column.offsets is None:
        return replace(column, values=taken(column.values, rows), valid=valid)
    offsets, places = list_places(column.offsets[rows], column.lengths[rows])
    elements = None if column.element_valid is None else column.element_valid[places]
    return replace(column, values=taken(column.values, places), offsets=offsets, valid=valid, element_valid=elements)


def flat_batch(batch: DedupBatch) -> DedupBatch:
    """The same impressions with a request row each: R = B, ``inverse_indices`` counts up, ``lengths`` are 1.

    What a model computes from it must equal what it computes from ``batch``; its ``num_bytes`` are what a loader of
    flat rows would move. For tests and comparisons: it undoes what the dataset saved.

    Returns:
        A batch on the same device, with columns that transforms added.
    """
    inverse = batch.inverse_indices
    named: list[tuple[str, str, Tensor]] = [
        ("", LENGTHS, torch.ones_like(inverse)),
        ("", INVERSE, torch.arange(len(inverse), device=inverse.device)),
    ]
    vocabularies = {}
    extras: dict[str, tuple[Grain, Column]] = {}
    for name, grain in batch.grains.items():
        column = take_rows(batch[name], inverse) if grain is Grain.REQUEST else batch[name]
        if column.values.dim() > 1:
            # A buffer knows numbers of elements, not shapes.
            extras[name] = (grain, column)
            continue
        named += [(name, part, tensor) for part, tensor in column.tensors().items()]
        if column.vocabulary is not None:
            vocabularies[name] = column.vocabulary
    grains = {name: grain for name, grain in batch.grains.items() if name not in extras}
    buffer, layout, sizes = packed(grains, named, batch.layout.types)
    return replace(batch, buffer=buffer, layout=layout, sizes=sizes, vocabularies=vocabularies, extras=extras)
