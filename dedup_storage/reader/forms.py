"""A batch in other forms: plain tensors, Arrow, pandas, torchrec, a few lines of text."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dedup_storage.errors import MissingDependencyError, UnknownColumnError, UsageError, known_names
from dedup_storage.reader.column import Column, dtype_text
from dedup_storage.schema import Grain
from dedup_storage.words import counted

__all__ = ["arrow_table", "keyed_jagged", "pandas_frame", "pipelineable", "plain_tensors", "shown_columns"]

# Columns of each grain that a printed batch names.
_SHOWN_COLUMNS = 12


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
        import pandas  # noqa: F401
    except ImportError:
        raise MissingDependencyError("to_pandas needs pandas", fix="Install pandas, or use to_arrow().") from None
    return table.to_pandas()


def _array(values: Tensor, valid: Tensor | None, vocabulary: tuple[Any, ...] | None) -> pa.Array:
    numbers = values.cpu().numpy()
    if vocabulary is not None:
        words = pa.array(vocabulary) if vocabulary else pa.array([], pa.string())
        return words.take(pa.array(numbers, mask=numbers < 0))
    return pa.array(numbers, mask=None if valid is None else ~valid.cpu().numpy())


def _column(column: Column) -> pa.Array:
    if column.offsets is None:
        return _array(column.values, column.valid, column.vocabulary)
    elements = _array(column.values, column.element_valid, column.vocabulary)
    offsets = column.offsets.cpu().numpy()
    missing = None if column.valid is None else pa.array(~column.valid.cpu().numpy())
    return pa.LargeListArray.from_arrays(pa.array(offsets), elements, mask=missing)


def arrow_table(
    requests: Mapping[str, Column], impressions: Mapping[str, Column], inverse_indices: Tensor | None
) -> pa.Table:
    """Columns as a batch holds them, strings and nulls put back: times stay int64 microseconds.

    Args:
        requests: Columns of R rows.
        impressions: Columns of B rows.
        inverse_indices: (B,) the request row of each impression, to repeat the former; ``None`` for R rows.
    """
    rows = None if inverse_indices is None else pa.array(inverse_indices.cpu().numpy().astype(np.int64))
    arrays = {name: _column(column) for name, column in requests.items()}
    if rows is not None:
        arrays = {name: array.take(rows) for name, array in arrays.items()}
        arrays |= {name: _column(column) for name, column in impressions.items()}
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
