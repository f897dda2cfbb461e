"""A batch in other forms: plain tensors, Arrow, pandas, torchrec, a few lines of text."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from dedup_storage.errors import MissingDependencyError, UnknownColumnError, UsageError, known_names
from dedup_storage.reader.column import Column, dtype_text
from dedup_storage.schema import Grain
from dedup_storage.words import counted

__all__ = [
    "arrow_table", "keyed_jagged", "pandas_frame", "pipelineable", "plain_tensors", "shown_columns", "type_name",
]  # fmt: skip

# Columns of each grain that a printed batch names.
_SHOWN_COLUMNS = 12
# What batches hold as numbers or codes, by the type that it is given back in; timestamps have zones beside.
_TOLD = (
    (pa.date32(), pa.types.is_date), (pa.time64("us"), pa.types.is_time), (pa.duration("us"), pa.types.is_duration),
    (pa.string(), pa.types.is_string), (pa.string(), pa.types.is_large_string), (pa.string(), pa.types.is_string_view),
    (pa.binary(), pa.types.is_binary), (pa.binary(), pa.types.is_large_binary), (pa.binary(), pa.types.is_binary_view),
    (pa.binary(), pa.types.is_fixed_size_binary),
)  # fmt: skip
_NAMED = (pa.timestamp("us"), *(kind for kind, _ in _TOLD))
_ZONED = re.compile(r"timestamp\[us, tz=(.+)\]")
_NULLABLE = {f"{sign}int{bits}": f"{'U' if sign else ''}Int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def plain_tensors(index: Mapping[str, Tensor], columns: Mapping[str, tuple[Grain, Column]]) -> dict[str, Tensor]:
    """The tensors of a batch by name; see ``DedupBatch.as_dict``.

    Args:
        index: What the batch has beside its columns; a column of such a name is called by its grain too.
        columns: Its columns.
    """
    tensors = dict(index)
    for name, (grain, column) in columns.items():
        shown = f"{grain.value}.{name}" if name in index else name
        for part, tensor in column.tensors().items():
            key = shown if part == "values" else f"{shown}.{part}"
            if key in tensors:
                raise UsageError(f"two tensors of the batch would be called {key}", fix="Rename the added column.")
            tensors[key] = tensor
    return tensors


def shown_columns(requests: Mapping[str, Column], impressions: Mapping[str, Column]) -> list[str]:
    """A line for each grain that names its columns and what they hold, never values."""
    lines = []
    for grain, columns in ((Grain.REQUEST, requests), (Grain.IMPRESSION, impressions)):
        named = [f"{name} {_kind(column)}" for name, column in list(columns.items())[:_SHOWN_COLUMNS]]
        if len(columns) > _SHOWN_COLUMNS:
            named.append(f"and {counted(len(columns) - _SHOWN_COLUMNS, 'further column')}")
        lines.append(f"  {grain.value}: {', '.join(named) or 'no column'}")
    return lines


def _kind(column: Column) -> str:
    """What a row of a column holds, in a word or three. Example: ``"lists of int64"``"""
    kind = dtype_text(column.values) if column.vocabulary is None else "string"
    return f"lists of {kind}" if column.is_list else kind


def pandas_frame(table: pa.Table) -> Any:
    """A table as a pandas frame; see ``DedupBatch.to_pandas``."""
    try:
        import pandas
    except ImportError:
        raise MissingDependencyError("to_pandas needs pandas", fix="Install pandas, or use to_arrow().") from None
    frame = table.to_pandas(date_as_object=False)
    for name in table.column_names:
        column = table[name]
        if _counts(column.type) and column.null_count:
            # A float holds ids of 53 bits.
            kind = "boolean" if pa.types.is_boolean(column.type) else _NULLABLE[str(column.type)]
            nullable: Any = pandas.api.types.pandas_dtype(kind)
            frame[name] = nullable.__from_arrow__(column)
        elif _counts_in_lists(column) and pc.list_flatten(column).null_count:
            frame[name] = pandas.Series(column.to_pylist(), dtype=object)
    return frame


def _counts(kind: pa.DataType) -> bool:
    """Whether pandas would make floats or objects of values of a type where one is null."""
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _counts_in_lists(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_large_list(column.type)) and _counts(column.type.value_type)


def type_name(kind: pa.DataType) -> str | None:
    """Arrow's name of the type that ``to_arrow`` gives values back in, where a tensor's dtype does not tell it.

    Example: ``pa.timestamp("ns", "UTC")`` -> ``"timestamp[us, tz=UTC]"``
    """
    if pa.types.is_dictionary(kind):
        return type_name(kind.value_type)
    if pa.types.is_timestamp(kind):
        return str(pa.timestamp("us", kind.tz))
    for told, is_kind in _TOLD:
        if is_kind(kind):
            return str(told)
    return None


def _named_type(name: str) -> pa.DataType:
    """The type of a name that ``type_name`` gave."""
    zone = _ZONED.fullmatch(name)
    return pa.timestamp("us", zone[1]) if zone else next(kind for kind in _NAMED if str(kind) == name)


def _array(values: Tensor, valid: Tensor | None, vocabulary: tuple[Any, ...] | None, name: str | None) -> pa.Array:
    numbers = values.cpu().numpy()
    kind = None if name is None else _named_type(name)
    if vocabulary is not None:
        words = pa.array(vocabulary, kind if kind is not None or vocabulary else pa.string())
        return words.take(pa.array(numbers, mask=numbers < 0))
    array = pa.array(numbers, mask=None if valid is None else ~valid.cpu().numpy())
    return array if kind is None else array.view(kind)


def _column(column: Column, name: str | None) -> pa.Array:
    if column.offsets is None:
        return _array(column.values, column.valid, column.vocabulary, name)
    elements = _array(column.values, column.element_valid, column.vocabulary, name)
    offsets = column.offsets.cpu().numpy()
    missing = None if column.valid is None else pa.array(~column.valid.cpu().numpy())
    return pa.LargeListArray.from_arrays(pa.array(offsets), elements, mask=missing)


def arrow_table(
    requests: Mapping[str, Column],
    impressions: Mapping[str, Column],
    inverse_indices: Tensor | None,
    types: Mapping[str, str],
) -> pa.Table:
    """Columns as a batch holds them, strings, nulls, dates and times put back.

    Args:
        requests: Columns of R rows.
        impressions: Columns of B rows.
        inverse_indices: (B,) the request row of each impression, to repeat the former; ``None`` for R rows.
        types: Names of the columns' types, as ``type_name`` gives them; of lists of the elements.
    """
    rows = None if inverse_indices is None else pa.array(inverse_indices.cpu().numpy().astype(np.int64))
    arrays = {name: _column(column, types.get(name)) for name, column in requests.items()}
    if rows is not None:
        arrays = {name: array.take(rows) for name, array in arrays.items()}
        arrays |= {name: _column(column, types.get(name)) for name, column in impressions.items()}
    return pa.table(arrays)


def keyed_jagged(
    present: Mapping[str, Column], columns: Sequence[str] | None, grain: str, buckets: Mapping[str, int] | int | None
) -> Any:
    """List and integer columns of one grain as a torchrec ``KeyedJaggedTensor``; see ``DedupBatch.to_kjt``."""
    try:
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
    except ImportError:
        raise MissingDependencyError("to_kjt needs torchrec", fix="Install torchrec.") from None
    rows: dict[str, int] = {}
    if buckets is not None:
        rows = dict(buckets) if isinstance(buckets, Mapping) else dict.fromkeys(present, buckets)
    names = list(columns) if columns is not None else [n for n, c in present.items() if _holds_ids(c, n in rows)]
    for name in (*names, *rows):
        if name not in present:
            raise UnknownColumnError(
                f"the batch has no column {name} at {grain} grain", expected=known_names(name, present)
            )
    if not names:
        raise UsageError(f"the batch has no integer column at {grain} grain", fix="Name columns, or another grain.")
    unused = [name for name in rows if name not in names]
    if isinstance(buckets, Mapping) and unused:
        raise UsageError(f"there are buckets for {', '.join(unused)}, which no column taken is", expected=str(names))
    values, lengths = [], []
    for name in names:
        if present[name].vocabulary is not None and name not in rows:
            raise UsageError(
                f"the codes of the column {name} mean other strings in the next batch",
                expected="ids that mean the same in every batch",
                fix="Pass buckets, or open the reader with strings='hash' or a vocabulary of the column.",
            )
        column = present[name].known()
        keep = column.valid if column.offsets is None and column.valid is not None else None
        ids = column.buckets(rows[name]) if name in rows else column.values.to(torch.int64)
        values.append(ids if keep is None else ids[keep])
        lengths.append(column.lengths if keep is None else keep.to(torch.int64))
    return KeyedJaggedTensor(keys=names, values=torch.cat(values), lengths=torch.cat(lengths))


def _holds_ids(column: Column, hashed: bool) -> bool:
    """Whether a column goes into a jagged tensor unasked."""
    return not column.values.is_floating_point() and (hashed or column.vocabulary is None)


def pipelineable(kind: type) -> None:
    """Have TorchRec's pipelines take batches of a kind: once torchrec is imported they ask for its own base class."""
    streamable = getattr(sys.modules.get("torchrec.streamable"), "Pipelineable", None)
    if streamable is not None:
        streamable.register(kind)
