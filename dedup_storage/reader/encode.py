"""From Arrow columns to one packed buffer of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import get_worker_info

from dedup_storage.dedup.expand import inverse_from_lengths
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import SchemaError
from dedup_storage.reader.batch import INVERSE, LENGTHS, DedupBatch, FieldView, Progress
from dedup_storage.reader.hashing import hash_strings
from dedup_storage.schema import Grain

__all__ = ["BatchPacker", "can_be_tensor"]

Strings = Literal["dictionary", "hash"]
_ALIGN = 64
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


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_)


def _is_text(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(kind(type_) for kind in kinds) or pa.types.is_fixed_size_binary(type_) or pa.types.is_dictionary(type_)


def _is_scalar(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_temporal, pa.types.is_decimal)
    return any(kind(type_) for kind in kinds) or _is_text(type_)


def can_be_tensor(type_: pa.DataType) -> bool:
    """Whether a column of this type has a tensor form: scalars, and lists of scalars."""
    return _is_scalar(type_.value_type) if _is_list(type_) else _is_scalar(type_)


def _plain(array: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """Values and validity of a scalar array that is no text."""
    type_ = array.type
    if pa.types.is_timestamp(type_):
        array = array.cast(pa.timestamp("us", type_.tz), safe=False).view(pa.int64())
    elif pa.types.is_date32(type_) or pa.types.is_time32(type_):
        array = array.view(pa.int32())
    elif pa.types.is_temporal(type_):
        array = array.view(pa.int64())
    elif pa.types.is_decimal(type_):
        array = array.cast(pa.float64())
    valid = None
    if array.null_count:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        fill: Any = (
            float("nan") if pa.types.is_floating(array.type) else False if pa.types.is_boolean(array.type) else 0
        )
        array = pc.fill_null(array, pa.scalar(fill, array.type))
    return array.to_numpy(zero_copy_only=False), valid


@dataclass
class _Encoded:
    """One column's arrays; each a list of parts that follow one another in the buffer."""

    parts: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)
    vocabulary: tuple[Any, ...] | None = None

    def add_masks(self, part: str, masks: Sequence[npt.NDArray[np.bool_] | None], sizes: Sequence[int]) -> None:
        if any(m is not None for m in masks):
            self.parts[part] = [
                m if m is not None else np.ones(n, dtype=np.bool_) for m, n in zip(masks, sizes, strict=True)
            ]


def _encode_scalar(arrays: Sequence[pa.Array], strings: Strings, out: _Encoded, mask: str) -> None:
    type_ = arrays[0].type
    if not _is_text(type_):
        pairs = [_plain(a) for a in arrays]
        out.parts["values"] = [values for values, _ in pairs]
        out.add_masks(mask, [valid for _, valid in pairs], [len(a) for a in arrays])
        return
    text = pa.chunked_array(list(arrays), type=type_).combine_chunks()
    text = pa.concat_arrays(text.chunks) if isinstance(text, pa.ChunkedArray) else text
    encoded = text if pa.types.is_dictionary(text.type) else text.dictionary_encode()
    codes = encoded.indices
    if codes.null_count:
        out.parts[mask] = [codes.is_valid().to_numpy(zero_copy_only=False)]
    index = pc.fill_null(codes, -1).to_numpy(zero_copy_only=False).astype(np.int32)
    if strings == "hash":
        hashes = np.append(hash_strings(encoded.dictionary), np.int64(0))
        out.parts["values"] = [hashes[index]]
        return
    out.parts["values"] = [index]
    out.vocabulary = tuple(encoded.dictionary.to_pylist())


def encode_column(arrays: Sequence[pa.Array], strings: Strings) -> _Encoded:
    """Encode one column given as consecutive arrays of one type."""
    out = _Encoded()
    if not _is_list(arrays[0].type):
        _encode_scalar(arrays, strings, out, "valid")
        return out
    split = [list_parts(a) for a in arrays]
    bases = np.cumsum([0, *(offsets[-1] for _, offsets in split)])
    offsets = [o[1:] + b if i else o for i, ((_, o), b) in enumerate(zip(split, bases, strict=False))]
    _encode_scalar([values for values, _ in split], strings, out, "element_valid")
    out.parts["offsets"] = offsets
    masks = [a.is_valid().to_numpy(zero_copy_only=False) if a.null_count else None for a in arrays]
    out.add_masks("valid", masks, [len(a) for a in arrays])
    return out


@dataclass(frozen=True)
class BatchPacker:
    """Packs tables into batches.

    Attributes:
        user: User key.
        item: Item column.
        labels: Label columns.
        sequences: History lists.
        strings: Form of string columns.
    """

    user: str
    item: str
    labels: tuple[str, ...]
    sequences: tuple[str, ...]
    strings: Strings

    def pack(
        self, requests: Sequence[pa.Table], impressions: Sequence[pa.Table], lengths: Int64, progress: Progress
    ) -> DedupBatch:
        """One batch from tables whose rows follow one another.

        Args:
            requests: R rows in all, at least one table.
            impressions: B rows in all, grouped by request in the order of the requests.
            lengths: (R,) impressions of each request.
            progress: Where the batch stands.
        """
        named: list[tuple[str, Grain | None, str, list[npt.NDArray[Any]]]] = [
            ("", None, LENGTHS, [lengths]),
            ("", None, INVERSE, [inverse_from_lengths(lengths)]),
        ]
        vocabularies: dict[str, tuple[Any, ...]] = {}
        for grain, tables in ((Grain.REQUEST, requests), (Grain.IMPRESSION, impressions)):
            for place, name in enumerate(tables[0].column_names):
                arrays = [chunk for t in tables for chunk in _chunks(t.column(place))]
                encoded = encode_column(arrays, self.strings)
                named += [(name, grain, part, arrays_) for part, arrays_ in encoded.parts.items()]
                if encoded.vocabulary is not None:
                    vocabularies[name] = encoded.vocabulary
        buffer, views = _pack(named)
        return DedupBatch(
            buffer=buffer,
            views=views,
            vocabularies=vocabularies,
            user_column=self.user,
            item_column=self.item,
            label_columns=self.labels,
            sequence_columns=self.sequences,
            progress=progress,
        )


def _chunks(column: pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks if column.num_chunks else [pa.array([], column.type)]


def _pack(
    named: Sequence[tuple[str, Grain | None, str, list[npt.NDArray[Any]]]],
) -> tuple[torch.Tensor, tuple[FieldView, ...]]:
    views, start = [], 0
    for column, grain, part, arrays in named:
        dtype = _TORCH.get(arrays[0].dtype)
        if dtype is None:
            raise SchemaError(f"the column {column} has no tensor form", got=str(arrays[0].dtype))
        size = sum(len(a) for a in arrays)
        views.append(FieldView(column, grain, part, dtype, start, size))
        start += -(-size * dtype.itemsize // _ALIGN) * _ALIGN
    buffer = _allocate(start)
    memory = buffer.numpy()
    for view, (_, _, _, arrays) in zip(views, named, strict=True):
        place = view.start
        for array in arrays:
            target = memory[place : place + array.nbytes].view(array.dtype)
            np.copyto(target, array)
            place += array.nbytes
    return buffer, tuple(views)


def _allocate(num_bytes: int) -> torch.Tensor:
    if get_worker_info() is None or num_bytes == 0:
        return torch.empty(num_bytes, dtype=torch.uint8)
    # Written where the main process can map it, the batch crosses without another copy.
    storage = torch.UntypedStorage._new_shared(num_bytes)
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (num_bytes,), (1,))
