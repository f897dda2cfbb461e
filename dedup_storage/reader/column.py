"""One column of a batch: a view into the batch's buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from dedup_storage.dedup.runs import single_chunk
from dedup_storage.errors import UsageError
from dedup_storage.reader.hashing import hash_strings
from dedup_storage.training.masks import NULL_ID
from dedup_storage.words import counted

__all__ = ["Column", "dtype_text", "list_places", "repeated", "taken"]

_FIBONACCI = -7046029254386353131
# Unsigned integers, of which a device knows fewer operations than of signed ones of the same width.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def dtype_text(tensor: Tensor) -> str:
    """A tensor's dtype without its module. Example: ``"int64"``"""
    return str(tensor.dtype).removeprefix("torch.")


def list_places(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Where the elements of some lists lie, list by list; waits for the device of the tensors.

    Args:
        starts, lengths: (n,) int64, place of each list's first element, and its elements.

    Returns:
        (n + 1,) int64 offsets of the lists, and (elements,) int64 places.
    """
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    # The start of its list, plus its place in it.
    shift = (starts - offsets[:-1]).repeat_interleave(lengths)
    return offsets, torch.arange(len(shift), device=starts.device) + shift


def taken(values: Tensor, places: Tensor) -> Tensor:
    """Rows of a tensor of any dtype, on any device.

    Args:
        values: (n, ...).
        places: int64 of any shape, or a mask (n,) bool, on the device of the values.

    Returns:
        (m, ...).
    """
    return _as_before(_signed(values)[places], values.dtype)


def repeated(rows: Tensor, places: Tensor) -> Tensor:
    """The same by ``index_select``, whose gradients are documented.

    Args:
        rows: (n, ...).
        places: (m,) int64.
    """
    return _as_before(_signed(rows).index_select(0, places), rows.dtype)


def _signed(values: Tensor) -> Tensor:
    signed = _SIGNED.get(values.dtype)
    return values if signed is None else values.view(signed)


def _as_before(found: Tensor, dtype: torch.dtype) -> Tensor:
    # A view of another dtype has no gradient, not even one of the same.
    return found if found.dtype == dtype else found.view(dtype)


def _check_whole(option: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UsageError(f"{option} is not valid", expected=f"a whole number, {least} or more", got=repr(value))


def _filling(fill: float, dtype: torch.dtype) -> Tensor:
    """A value of a dtype, without dimensions, that equals ``fill``, as near as a float of its width comes."""
    try:
        found = torch.as_tensor(fill, dtype=dtype, device="cpu")
        told = found.item()
        same = math.isfinite(told) == math.isfinite(fill) if dtype.is_floating_point else told == fill
    except (RuntimeError, OverflowError, ValueError, TypeError):
        same = False
    if not same:
        raise UsageError(f"fill is no value of {str(dtype).removeprefix('torch.')}", got=repr(fill))
    return found


def _ids_given(values: Sequence[Any] | pa.Array | Tensor) -> pa.Array:
    try:
        plain = values.cpu().numpy() if isinstance(values, Tensor) else values
        array = plain if isinstance(plain, pa.Array) else pa.array(plain)
    except (pa.ArrowException, OverflowError) as error:
        raise UsageError("ids are whole numbers or text of one kind", got=str(error).splitlines()[0]) from None
    if isinstance(array, pa.ChunkedArray):
        array = single_chunk(array)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


@dataclass(frozen=True)
class Column:
    """Values of one column at one grain, n rows.

    Attributes:
        values: (n,) for a scalar column, (num_elements,) for a list column. Times are int64 microseconds since the
            epoch, times of day and durations int64 microseconds, dates int32 days, decimals float64
            (``decimal(20,0)``, which holds unsigned 64-bit integers, uint64), strings int32 codes or int64
            hashes; with a vocabulary of the dataset (``open_vocabulary``) int32 ids, 0 for null and for what it does
            not hold.
        offsets: (n + 1,) int64 for a list column: row i holds values[offsets[i]:offsets[i + 1]]; else ``None``.
        valid: (n,) bool, False where the row is null; ``None`` when no row of the batch is. A null row's value is 0
            (NaN for floats, -1 for codes), a null list is empty.
        element_valid: The same for the elements of a list column.
        vocabulary: The strings behind the codes, of this batch alone; ``None`` for other columns.
    """

    values: Tensor
    offsets: Tensor | None = None
    valid: Tensor | None = None
    element_valid: Tensor | None = None
    vocabulary: tuple[Any, ...] | None = None

    @classmethod
    def of(cls, values: Sequence[Any] | pa.Array | Tensor) -> Column:
        """A column of values that come from no batch, such as candidates to score: same value, same bucket.

        Args:
            values: (n,) whole numbers, also as a tensor, or text; ``None`` is null.

        Raises:
            UsageError: they are neither.

        Example:
            >>> rows = Column.of(["shoe-1", "shoe-2"]).buckets(4096)
        """
        array = _ids_given(values)
        valid = torch.tensor(array.is_valid().to_numpy(zero_copy_only=False)) if array.null_count else None
        if pa.types.is_integer(array.type) or pa.types.is_null(array.type):
            # Unsigned numbers keep their 64 bits.
            numbers = pc.fill_null(array.cast(pa.int64(), safe=False), 0)
            return cls(torch.tensor(numbers.to_numpy(zero_copy_only=False)), valid=valid)
        if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
            raise UsageError("ids are whole numbers or text", got=str(array.type), fix="Cast them to one of these.")
        encoded = array.dictionary_encode()
        codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        return cls(torch.tensor(codes), valid=valid, vocabulary=tuple(encoded.dictionary.to_pylist()))

    @property
    def is_list(self) -> bool:
        """Whether a row holds a list."""
        return self.offsets is not None

    @property
    def lengths(self) -> Tensor:
        """(n,) int64 elements of each row; 1 everywhere for a scalar column."""
        if self.offsets is None:
            return torch.ones(len(self.values), dtype=torch.int64, device=self.values.device)
        return self.offsets[1:] - self.offsets[:-1]

    def __repr__(self) -> str:
        """Shapes and dtypes, never values."""
        parts = [f"{name}={dtype_text(t)} {tuple(t.shape)}" for name, t in self.tensors().items()]
        if self.vocabulary is not None:
            parts.append(f"vocabulary={counted(len(self.vocabulary), 'string')}")
        if self.values.device.type != "cpu":
            parts.append(f"device={self.values.device}")
        return f"Column({', '.join(parts)})"

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there, by attribute name."""
        named = {
            "values": self.values,
            "offsets": self.offsets,
            "valid": self.valid,
            "element_valid": self.element_valid,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def with_tensors(self, tensors: dict[str, Tensor]) -> Column:
        """The same column over other tensors of the same shapes."""
        return replace(
            self,
            values=tensors["values"],
            offsets=tensors.get("offsets"),
            valid=tensors.get("valid"),
            element_valid=tensors.get("element_valid"),
        )

    def ids(self) -> Tensor:
        """The values as int64 that mean the same in every batch, rank and process; shaped like ``values``.

        Integers stay as they are (unsigned ones with their 64 bits), strings are hashed as the reader does with
        ``strings='hash'``. A null is ``NULL_ID``, the least number of 64 bits, and so never equal to an item 0. A
        vocabulary is hashed at every call: where that shows, open the reader with ``strings='hash'``.

        Raises:
            TypeError: a floating-point column.
        """
        if self.values.is_floating_point():
            raise TypeError("floating-point values are not ids")
        if self.vocabulary is None:
            ids = self.values.to(torch.int64)
        elif self.vocabulary:
            hashes = torch.from_numpy(hash_strings(pa.array(self.vocabulary))).to(self.values.device)
            ids = hashes[self.values.to(torch.int64).clamp(min=0)]
        else:
            ids = torch.full_like(self.values, NULL_ID, dtype=torch.int64)
        there = self.valid if self.offsets is None else self.element_valid
        return ids if there is None else torch.where(there, ids, NULL_ID)

    def known(self) -> Column:
        """A list column without its null elements, so that parallel lists may be longer; any other column itself."""
        if self.offsets is None or self.element_valid is None:
            return self
        before = torch.nn.functional.pad(self.element_valid.cumsum(0), (1, 0))
        values = taken(self.values, self.element_valid)
        return replace(self, values=values, offsets=before[self.offsets], element_valid=None)

    def buckets(self, rows: int) -> Tensor:
        """Rows of an embedding table by a stable hash, shaped like ``values``: 1 to ``rows``, and 0 for null.

        The same value has the same row in every batch, rank and run; two values may share one. A vocabulary
        (``open_vocabulary``) gives each its own.

        Args:
            rows: Rows beside row 0; an embedding table needs ``rows + 1``.

        Raises:
            TypeError: a floating-point column.
            UsageError: ``rows`` is no whole number of at least 1.
        """
        _check_whole("rows", rows, 1)
        # Fibonacci hashing in wrapping int64 arithmetic; the high bits are the good ones.
        found = ((self.ids() * _FIBONACCI) >> 20).remainder(rows) + 1
        valid = self.valid if self.offsets is None else self.element_valid
        return found if valid is None else torch.where(valid, found, 0)

    def to_nested(self) -> Tensor:
        """A jagged NestedTensor (n, ragged), null elements left out; a scalar column gives its plain values.

        Copies nothing where no element is null.
        """
        if self.offsets is None:
            return self.values
        known = self.known()
        return torch.nested.nested_tensor_from_jagged(known.values, offsets=known.offsets)

    def to_padded(self, length: int, fill: float = 0) -> Tensor:
        """(n, length): the newest ``length`` elements of each list, right-aligned at the end.

        ``fill`` stands before them, and in the place of null elements.

        Raises:
            TypeError: the column holds no lists.
            UsageError: ``length`` is no whole number of at least 0, or ``fill`` no value of the elements' dtype.
        """
        if self.offsets is None:
            raise TypeError("to_padded needs a list column")
        _check_whole("length", length, 0)
        other = _filling(fill, self.values.dtype)
        ends = self.offsets[1:].unsqueeze(1)
        places = ends - length + torch.arange(length, device=self.values.device)
        there = places >= self.offsets[:-1].unsqueeze(1)
        if len(self.values) == 0:
            return other.to(self.values.device).repeat(len(self), length)
        places = places.clamp(min=0)
        if self.element_valid is not None:
            there = there & self.element_valid[places]
        found = torch.where(there, _signed(self.values)[places], _signed(other.to(self.values.device)))
        return _as_before(found, self.values.dtype)

    def decode(self) -> list[Any]:
        """Python values, strings looked up in the vocabulary; for inspection."""
        flat = self.values.tolist()
        if self.vocabulary is not None:
            flat = [None if code < 0 else self.vocabulary[code] for code in flat]
        elif self.element_valid is not None or (self.offsets is None and self.valid is not None):
            mask = self.element_valid if self.offsets is not None else self.valid
            if mask is not None:
                flat = [value if there else None for value, there in zip(flat, mask.tolist(), strict=True)]
        if self.offsets is None:
            return flat
        bounds = self.offsets.tolist()
        rows: list[Any] = [flat[a:b] for a, b in pairwise(bounds)]
        if self.valid is not None:
            rows = [row if there else None for row, there in zip(rows, self.valid.tolist(), strict=True)]
        return rows
