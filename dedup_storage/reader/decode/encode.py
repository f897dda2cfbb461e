"""From Arrow columns to NumPy arrays: what a tensor will hold, still in the window's own order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from dedup_storage.dedup.runs import single_chunk
from dedup_storage.errors import SchemaError
from dedup_storage.reader.forms import type_name
from dedup_storage.reader.hashing import hash_strings
from dedup_storage.reader.vocabulary import IdVocabulary

__all__ = [
    "Form",
    "Forms",
    "Scalars",
    "Strings",
    "Vocabulary",
    "can_be_tensor",
    "encode_scalars",
    "is_list",
    "is_text",
    "joined",
    "joined_valid",
    "tensor_type",
    "told_type",
]

Strings = Literal["dictionary", "hash"]
# How unsigned integers of 64 bits are stored: no table format has a type of their own.
UNSIGNED = pa.decimal128(20, 0)
# From it on one float64 stands for several whole numbers.
_WHOLE = 2.0**53
# Forms that engines give text in between their own steps; the kernels here know the plain ones.
_VIEWS = (pa.types.is_string_view, pa.types.is_binary_view)
# What a column's values become: ids of a vocabulary; else numbers as they are, and strings one way or the other.
Form = Strings | IdVocabulary
_TORCH = {
    np.dtype(np.int8): torch.int8,
    np.dtype(np.int16): torch.int16,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.uint16): torch.uint16,
    np.dtype(np.uint32): torch.uint32,
    np.dtype(np.uint64): torch.uint64,
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
    np.dtype(np.bool_): torch.bool,
}


def is_list(type_: pa.DataType) -> bool:
    """Whether rows are lists, or views of lists."""
    return pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_large_list_view(type_)


def is_text(type_: pa.DataType) -> bool:
    """Whether values are strings or bytes, plain or behind a dictionary."""
    if pa.types.is_dictionary(type_):
        return is_text(type_.value_type)
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(kind(type_) for kind in (*kinds, pa.types.is_fixed_size_binary, *_VIEWS))


def _is_scalar(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_scalar(type_.value_type)
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_temporal, pa.types.is_decimal)
    return (any(kind(type_) for kind in kinds) and not pa.types.is_interval(type_)) or is_text(type_)


def can_be_tensor(type_: pa.DataType) -> bool:
    """Whether a column of this type has a tensor form: scalars, and lists of scalars."""
    return _is_scalar(type_.value_type) if is_list(type_) else _is_scalar(type_)


def told_type(type_: pa.DataType, form: Form) -> str | None:
    """Arrow's name of the type that a column's values, or the elements of its lists, are given back in (``type_name``).

    ``None`` where the tensor's dtype tells it, and where values become hashes or ids of a vocabulary.
    """
    kind = type_.value_type if is_list(type_) else type_
    if isinstance(form, IdVocabulary) or (form == "hash" and is_text(kind)):
        return None
    return type_name(kind)


def tensor_type(dtype: np.dtype[Any]) -> torch.dtype:
    """The tensor's dtype of an array's.

    Raises:
        SchemaError: torch has none.
    """
    found = _TORCH.get(dtype)
    if found is None:
        raise SchemaError("a column's values have no tensor form", got=str(dtype))
    return found


@dataclass(frozen=True)
class Vocabulary:
    """The strings behind codes."""

    strings: pa.Array

    @cached_property
    def values(self) -> tuple[Any, ...]:
        """As Python values, made once."""
        return tuple(self.strings.to_pylist())

    def __len__(self) -> int:
        return len(self.strings)


@dataclass(frozen=True)
class Forms:
    """The form of each column.

    Attributes:
        strings: Of string columns without a vocabulary.
        vocabularies: Column -> its vocabulary.
        shared: Request-grain lists are delivered as windows of events, so that none is copied before.
    """

    strings: Strings = "dictionary"
    vocabularies: Mapping[str, IdVocabulary] = field(default_factory=dict)
    shared: bool = False

    def of(self, column: str) -> Form:
        """The form of one column."""
        return self.vocabularies.get(column, self.strings)


@dataclass(frozen=True)
class Scalars:
    """Values of one column, or of a list column's elements.

    Attributes:
        values: (n,).
        valid: (n,) bool, False where null; ``None`` when nothing is.
        vocabulary: With codes, the strings behind them.
    """

    values: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None = None
    vocabulary: Vocabulary | None = None

    @cached_property
    def form(self) -> tuple[torch.dtype, int]:
        """The tensor's dtype, and its bytes."""
        dtype = tensor_type(self.values.dtype)
        return dtype, dtype.itemsize

    @cached_property
    def raw(self) -> memoryview:
        """The values' bytes; slicing these costs a third of slicing an array."""
        return self.values.view(np.uint8).data

    def take(self, rows: npt.NDArray[np.int64]) -> Scalars:
        """Other order."""
        valid = None if self.valid is None else self.valid[rows]
        return Scalars(self.values.take(rows), valid, self.vocabulary)


def _readable(chunks: Sequence[pa.Array]) -> list[pa.Array]:
    """The same values in a form that is encoded here: numbers as they are, text plain or behind signed codes.

    Nulls are null rows: a dictionary may have one among its values.
    """
    type_ = chunks[0].type
    if pa.types.is_dictionary(type_):
        words = type_.value_type
        coded = is_text(words) and not any(view(words) for view in _VIEWS)
        if not coded or any(chunk.dictionary.null_count for chunk in chunks):
            return _readable([chunk.dictionary_decode() for chunk in chunks])
        if pa.types.is_unsigned_integer(type_.index_type):
            return [pa.DictionaryArray.from_arrays(c.indices.cast(pa.int64()), c.dictionary) for c in chunks]
    if pa.types.is_string_view(type_):
        return [chunk.cast(pa.large_string()) for chunk in chunks]
    if pa.types.is_binary_view(type_):
        return [chunk.cast(pa.large_binary()) for chunk in chunks]
    return list(chunks)


def _plain(array: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """Values and validity of a scalar array that is no text."""
    type_ = array.type
    if pa.types.is_timestamp(type_):
        array = _exactly(array, pa.timestamp("us", type_.tz)).view(pa.int64())
    elif pa.types.is_date(type_):
        array = _exactly(array, pa.date32()).view(pa.int32())
    elif pa.types.is_time(type_):
        array = _exactly(array, pa.time64("us")).view(pa.int64())
    elif pa.types.is_duration(type_):
        array = _exactly(array, pa.duration("us")).view(pa.int64())
    elif type_ == UNSIGNED:
        array = _unsigned(array)
    elif pa.types.is_decimal(type_):
        array = _doubles(array)
    valid = None
    if array.null_count:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        fill: Any = (
            float("nan") if pa.types.is_floating(array.type) else False if pa.types.is_boolean(array.type) else 0
        )
        array = pc.fill_null(array, pa.scalar(fill, array.type))
    return array.to_numpy(zero_copy_only=False), valid


def _exactly(array: pa.Array, target: pa.DataType) -> pa.Array:
    """Dates and times in the unit that tensors have them in."""
    try:
        return array.cast(target)
    except pa.ArrowInvalid:
        raise SchemaError(
            f"values of {array.type} would become others as {target}",
            expected="whole days where there are dates; else whole microseconds, as many as 64 bits count",
            fix="Round them in arrow_transform, or leave the column out of columns.",
        ) from None


def _doubles(array: pa.Array) -> pa.Array:
    """Decimals as float64: fractions are rounded, whole numbers are ids as often as not, and never are."""
    doubles = array.cast(pa.float64())
    if array.type.scale <= 0 and pc.any(pc.greater_equal(pc.abs(doubles), _WHOLE)).as_py():
        raise SchemaError(
            f"values of {array.type} are read as float64, which tells whole numbers from 2**53 on no longer apart",
            expected="whole numbers below 2**53",
            fix="Cast them to int64 in arrow_transform, or leave the column out of columns.",
        )
    return doubles


def _unsigned(array: pa.Array) -> pa.Array:
    try:
        return array.cast(pa.uint64())
    except pa.ArrowInvalid:
        raise SchemaError(
            "values of decimal(20,0) are no unsigned integers of 64 bits",
            expected="values from 0 to 2**64 - 1, as such integers are stored",
            fix="Leave it out of columns, or store it as another decimal, which is read as float64.",
        ) from None


def _text(chunks: Sequence[pa.Array], strings: Strings) -> Scalars:
    text = single_chunk(pa.chunked_array(list(chunks), type=chunks[0].type))
    encoded = text if pa.types.is_dictionary(text.type) else text.dictionary_encode()
    codes = encoded.indices
    valid = codes.is_valid().to_numpy(zero_copy_only=False) if codes.null_count else None
    index = pc.fill_null(codes, -1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    if strings == "hash":
        hashes = np.append(hash_strings(encoded.dictionary), np.int64(0))
        return Scalars(hashes[index], valid)
    return Scalars(index, valid, Vocabulary(encoded.dictionary))


def _ids(chunks: Sequence[pa.Array], vocabulary: IdVocabulary) -> Scalars:
    together = pa.chunked_array(list(chunks), type=chunks[0].type)
    valid = together.is_valid().to_numpy().astype(np.bool_) if together.null_count else None
    return Scalars(vocabulary.ids(together), valid)


def encode_scalars(chunks: Sequence[pa.Array], form: Form) -> list[Scalars]:
    """Encode consecutive arrays of one scalar type, at least one.

    Returns:
        One piece where values become codes or ids; else one for each array, over Arrow's own memory where its type has
        no nulls and needs no conversion.

    Raises:
        SchemaError: some would become other values.
    """
    chunks = _readable(chunks)
    if isinstance(form, IdVocabulary):
        return [_ids(chunks, form)]
    if is_text(chunks[0].type):
        return [_text(chunks, form)]
    return [Scalars(*_plain(chunk)) for chunk in chunks]


def joined(pieces: Sequence[Scalars]) -> Scalars:
    """Pieces of one column, at least one, as one."""
    if len(pieces) == 1:
        return pieces[0]
    return Scalars(np.concatenate([p.values for p in pieces]), joined_valid(pieces), pieces[0].vocabulary)


def joined_valid(pieces: Sequence[Scalars]) -> npt.NDArray[np.bool_] | None:
    """Which values of all pieces are not null; ``None`` when none is."""
    if all(p.valid is None for p in pieces):
        return None
    return np.concatenate([p.valid if p.valid is not None else np.ones(len(p.values), dtype=np.bool_) for p in pieces])
