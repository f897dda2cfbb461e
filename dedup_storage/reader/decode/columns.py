"""A window's columns of one grain, scalar ones side by side.

Columns of one width are encoded, put in order and copied into batches together: what a batch costs does not grow with
the number of its columns, only with their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from dedup_storage.errors import SchemaError
from dedup_storage.reader.decode.encode import (
    Forms,
    Scalars,
    can_be_tensor,
    encode_scalars,
    is_list,
    joined_valid,
    tensor_type,
    told_type,
)
from dedup_storage.reader.decode.lists import Lists, encode_lists
from dedup_storage.reader.decode.rows import RowOrder
from dedup_storage.reader.layout import Field, Section

__all__ = ["Columns", "Group", "Kind", "Present", "encode_columns"]

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Kind:
    """What the columns of a window are, one object for all windows that have the same.

    Attributes:
        names: In the dataset's order.
        groups: Name and dtype of the columns of each group.
        coded: Columns of codes into a vocabulary.
        lists: List columns and the dtype of their elements.
        types: Columns and Arrow's names of their types, as ``type_name`` gives them.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[tuple[str, torch.dtype], ...], ...]
    coded: tuple[str, ...]
    lists: tuple[tuple[str, torch.dtype], ...]
    types: tuple[tuple[str, str], ...] = ()

    @cached_property
    def list_names(self) -> tuple[str, ...]:
        """Names of the list columns."""
        return tuple(name for name, _ in self.lists)

    def sections(self, rows: int) -> list[Section]:
        """Of the scalar columns' values: one for each group, and one for all codes.

        Args:
            rows: Which of a batch's counts their rows are.
        """
        coded = tuple((name, torch.int32) for name in self.coded)
        together = [*self.groups, coded] if coded else self.groups
        return [
            Section(rows, 0, group[0][1].itemsize, tuple(Field(name, "values", dtype) for name, dtype in group))
            for group in together
        ]

    def described(self) -> str:
        """Its columns with their types. Example: ``"item_id int64, price float64"``"""
        types = {name: str(dtype).removeprefix("torch.") for group in self.groups for name, dtype in group}
        types |= dict.fromkeys(self.coded, "string")
        elements = {name: str(dtype).removeprefix("torch.") for name, dtype in self.lists}
        told = types | elements | dict(self.types)
        return ", ".join(f"{name} {'lists of ' if name in elements else ''}{told[name]}" for name in self.names)


# As many as there are selections of columns: a batch compares kinds by identity.
@cache
def _kind(*parts: Any) -> Kind:
    return Kind(*parts)


@dataclass(frozen=True)
class Group:
    """Scalar columns of one width.

    Attributes:
        values: (num_columns, num_rows), unsigned integers of that width, whatever the columns' own types.
    """

    values: Array

    @cached_property
    def octets(self) -> npt.NDArray[np.uint8]:
        """(num_columns, num_rows * width)."""
        return self.values.view(np.uint8)

    @cached_property
    def raw(self) -> memoryview:
        """The same bytes, one column after the other."""
        return self.octets.reshape(-1).data

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a column."""
        return int(self.octets.shape[1])

    @cached_property
    def width(self) -> int:
        """Bytes of a value."""
        return int(self.values.dtype.itemsize)


class Present(NamedTuple):
    """What a batch holds at one grain: columns, those with null rows, lists with null elements."""

    kind: Kind
    nulls: tuple[str, ...]
    element_nulls: tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """Encoded columns of one grain, in the window's order.

    Attributes:
        kind: What they are.
        groups: As ``kind.groups``.
        coded: Columns of codes, by name.
        lists: List columns, by name.
        masked: Columns that hold a null row somewhere in the window.
        masks: (num_masked, num_rows) bool, False where the row is null.
    """

    kind: Kind
    groups: tuple[Group, ...]
    coded: dict[str, Scalars]
    lists: dict[str, Lists]
    masked: tuple[str, ...]
    masks: Bools

    @cached_property
    def whole(self) -> Present | None:
        """What every batch holds of a window without nulls; ``None`` where batches must look for them."""
        elements = (source.valid for column in self.lists.values() for source in column.sources)
        whole = not self.masked and all(valid is None for valid in elements)
        return Present(self.kind, (), ()) if whole else None

    def mask(self, name: str, first: int, last: int) -> Bools:
        """Which of the rows ``first`` to ``last`` of a column are not null."""
        if name not in self.masked:
            return np.ones(last - first, dtype=np.bool_)
        found: Bools = self.masks[self.masked.index(name), first:last]
        return found

    def nulls(self, first: int, last: int) -> tuple[str, ...]:
        """Columns with a null among the rows ``first`` to ``last``."""
        if not self.masked:
            return ()
        whole: Bools = np.logical_and.reduce(self.masks[:, first:last], axis=1)
        return () if whole.all() else tuple(n for n, w in zip(self.masked, whole.tolist(), strict=True) if not w)


def encode_columns(table: pa.Table, order: RowOrder | None, forms: Forms, *, keep: bool = False) -> Columns:
    """Encode columns and put their rows in another order.

    Args:
        table: The columns, as decoded.
        order: Their new order; ``None`` leaves them.
        forms: Form of each column.
        keep: Whether the elements of lists stay where they are.

    Raises:
        SchemaError: a column, such as one that ``arrow_transform`` gave, has no tensor form, or its values would become
            others.
    """
    plain: dict[int, list[tuple[str, list[Scalars]]]] = {}
    coded: dict[str, Scalars] = {}
    lists: dict[str, Lists] = {}
    masks: dict[str, Bools] = {}
    types: dict[str, str] = {}
    for name in table.column_names:
        column, form = table[name], forms.of(name)
        if not can_be_tensor(column.type):
            raise SchemaError(
                f"the column {name} has no tensor form",
                expected="a scalar or a list of scalars",
                got=str(column.type),
                fix="Leave it out, or cast it in arrow_transform.",
            )
        chunks = column.chunks if column.num_chunks else [pa.array([], column.type)]
        with _naming(name):
            if is_list(column.type):
                encoded, valid = encode_lists(chunks, order, form, keep=keep)
                lists[name] = encoded.laid_as({known.place: known for known in lists.values()}.values())
            else:
                pieces = encode_scalars(chunks, form)
                valid = joined_valid(pieces)
                if pieces[0].vocabulary is None:
                    plain.setdefault(pieces[0].values.dtype.itemsize, []).append((name, pieces))
                else:
                    coded[name] = pieces[0] if order is None else pieces[0].take(order.rows)
        if valid is not None:
            masks[name] = valid
        told = told_type(column.type, form)
        if told is not None:
            types[name] = told
    groups = tuple(Group(_stack(group, table.num_rows, order)) for group in plain.values())
    kind = _kind(
        tuple(table.column_names),
        tuple(tuple((name, tensor_type(ps[0].values.dtype)) for name, ps in group) for group in plain.values()),
        tuple(coded),
        tuple((name, column.dtype) for name, column in lists.items()),
        tuple(types.items()),
    )
    stacked = np.stack(list(masks.values())) if masks else np.empty((0, table.num_rows), dtype=np.bool_)
    in_order = stacked if order is None or not masks else order.take(stacked.view(np.uint8)).view(np.bool_)
    return Columns(kind, groups, coded, lists, tuple(masks), in_order)


@contextmanager
def _naming(column: str) -> Iterator[None]:
    """Say of which column an error is."""
    try:
        yield
    except SchemaError as error:
        what = f"the column {column} cannot be made a tensor: {error.what}"
        raise SchemaError(what, expected=error.expected, got=error.got, fix=error.fix) from None


def _stack(group: Sequence[tuple[str, Sequence[Scalars]]], rows: int, order: RowOrder | None) -> Array:
    """Columns of one width as rows of one array, in their new order."""
    width = group[0][1][0].values.dtype.itemsize
    stacked = np.empty((len(group), rows), dtype=f"u{width}")
    for place, (_, pieces) in enumerate(group):
        np.concatenate([p.values.view(stacked.dtype) for p in pieces], out=stacked[place])
    return stacked if order is None else order.take(stacked)
