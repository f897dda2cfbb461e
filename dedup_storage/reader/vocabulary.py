"""A vocabulary of ids: what a model's embedding rows stand for, the same in every batch, rank, process and run.

Apart from the vocabulary of a batch, whose codes of strings mean nothing in the next batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from dedup_storage.dedup.runs import ArrowColumn, Int64, single_chunk
from dedup_storage.errors import SchemaError, StorageError
from dedup_storage.reader.hashing import hash_strings
from dedup_storage.words import counted

__all__ = ["IdVocabulary", "fits_vocabulary", "merge_counts", "plain_values"]

FORMAT = 1
_KEY = b"dedup-storage.vocabulary"
Int32 = npt.NDArray[np.int32]
# Integers that lie this near together are looked up in a table, by their value.
_DENSE_ROWS = 1 << 22


def _is_text(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(kind(type_) for kind in kinds) or pa.types.is_fixed_size_binary(type_)


def _element(type_: pa.DataType) -> pa.DataType:
    """The type of the values behind lists and dictionaries."""
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return _element(type_.value_type)
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def plain_values(array: ArrowColumn) -> pa.Array:
    """The values of a column as a vocabulary holds them: int64, or large strings or bytes; lists flattened.

    Raises:
        SchemaError: they are neither whole numbers nor text.
    """
    array = single_chunk(array)
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        array = array.flatten()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    target = _stored_type(array.type)
    if target is None:
        raise SchemaError(
            "a vocabulary holds whole numbers or text",
            got=str(array.type),
            fix="Name another column, or make one of these of it in arrow_transform.",
        )
    return array if array.type == target else array.cast(target)


def _stored_type(type_: pa.DataType) -> pa.DataType | None:
    if pa.types.is_integer(type_):
        return pa.int64()
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return pa.large_string()
    return pa.large_binary() if _is_text(type_) else None


def fits_vocabulary(type_: pa.DataType, vocabulary: IdVocabulary) -> bool:
    """Whether a column of this type, or its lists' elements, can have ids of a vocabulary."""
    return _stored_type(_element(type_)) == vocabulary.values.type


@dataclass(frozen=True, repr=False, eq=False)
class IdVocabulary:
    """Ids 1, 2, ... of the values of columns that were seen often enough; 0 is every other value, and null.

    The most frequent value has id 1; equally frequent ones follow in the order of their values. A real value never has
    id 0.

    Attributes:
        values: int64, large_string or large_binary array: the value of id 1, 2, ...
        counts: (len(values),) int64: how often each was seen.
        facts: What it was built of: dataset, version, columns, min_count, and filters where there were any.
    """

    values: pa.Array
    counts: Int64
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_counts(cls, values: pa.Array, counts: pa.Array, min_count: int, facts: Mapping[str, Any]) -> IdVocabulary:
        """From distinct values, in any order, and how often each was seen; nulls are left out."""
        table = pa.table({"value": values, "count": counts.cast(pa.int64())})
        table = table.filter(pc.and_(pc.is_valid(table["value"]), pc.greater_equal(table["count"], min_count)))
        table = table.sort_by([("count", "descending"), ("value", "ascending")]).combine_chunks()
        found = table["value"].combine_chunks()
        return cls(found, table["count"].to_numpy(), {**facts, "min_count": min_count})

    def __len__(self) -> int:
        """Ids, 0 among them: the rows of an embedding table."""
        return len(self.values) + 1

    def __repr__(self) -> str:
        facts = self.facts
        columns = " and ".join(facts.get("columns", ())) or "no column"
        return (
            f"IdVocabulary({columns} of {facts.get('dataset')}, version {facts.get('version')}, "
            f"seen {counted(facts.get('min_count', 1), 'time')} or more: {counted(len(self.values), 'value')})"
        )

    @cached_property
    def digest(self) -> str:
        """Short digest of the values in the order of their ids: what a model trained with it depends on."""
        digest = hashlib.sha256(str(self.values.type).encode())
        offset_free = pa.concat_arrays([self.values.slice(0, 0), self.values])
        for buffer in offset_free.buffers()[1:]:
            digest.update(memoryview(buffer) if buffer is not None else b"")
        return digest.hexdigest()[:16]

    # -- looking up ---------------------------------------------------------------------------------------------
    def ids(self, array: ArrowColumn) -> Int32:
        """The id of each value, exact; 0 for null and for what the vocabulary does not hold.

        Args:
            array: n values of a type that fits; lists are flattened.

        Returns:
            (n,) int32.

        Raises:
            SchemaError: text where the vocabulary holds numbers, or the other way round.
        """
        plain = plain_values(array)
        if plain.type != self.values.type:
            raise SchemaError(
                f"the vocabulary of {' and '.join(self.facts.get('columns', ()))} holds other values",
                expected=str(self.values.type),
                got=str(plain.type),
            )
        if plain.type == pa.int64() and self._table is not None:
            found = self._dense(plain)
        else:
            # Values repeat: each is looked up once.
            encoded = plain.dictionary_encode()
            distinct = encoded.dictionary
            known = self._sparse(distinct) if plain.type == pa.int64() else self._text(distinct)
            places = pc.fill_null(encoded.indices, len(distinct)).to_numpy(zero_copy_only=False)
            found = np.append(known, np.int32(0))[places]
        return found.astype(np.int32, copy=False)

    def decode(self, ids: npt.ArrayLike | Tensor) -> pa.Array:
        """The value of each id; null for 0.

        Args:
            ids: (n,) whole numbers from 0 to len(self) - 1; a tensor may lie on a device.
        """
        wanted = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids, dtype=np.int64)
        return self.values.take(pa.array(wanted - 1, mask=wanted == 0))

    @cached_property
    def _order(self) -> tuple[Int64, Int32]:
        """Numbers, or hashes of text, ascending; and the id of each."""
        text = self.values.type != pa.int64()
        keys = hash_strings(self.values) if text else self.values.to_numpy(zero_copy_only=False)
        order = np.argsort(keys, kind="stable")
        return keys[order], (order + 1).astype(np.int32)

    @cached_property
    def _table(self) -> tuple[int, Int32] | None:
        """The least value, and the id of each number from it on; ``None`` where they lie too far apart."""
        keys, ids = self._order
        if not len(keys) or int(keys[-1]) - int(keys[0]) >= max(_DENSE_ROWS, 4 * len(keys)):
            return None
        table = np.zeros(int(keys[-1]) - int(keys[0]) + 1, dtype=np.int32)
        table[keys - keys[0]] = ids
        return int(keys[0]), table

    def _dense(self, plain: pa.Array) -> Int32:
        least, table = self._table  # type: ignore[misc]
        outside = least - 1 if least > np.iinfo(np.int64).min else least + len(table)
        numbers = (pc.fill_null(plain, outside) if plain.null_count else plain).to_numpy(zero_copy_only=False)
        inside = (numbers >= least) & (numbers <= least + (len(table) - 1))
        return np.where(inside, table[np.where(inside, numbers, least) - least], np.int32(0))

    def _sparse(self, distinct: pa.Array) -> Int32:
        keys, ids = self._order
        if not len(keys):
            return np.zeros(len(distinct), dtype=np.int32)
        numbers = distinct.to_numpy(zero_copy_only=False)
        places = np.minimum(np.searchsorted(keys, numbers), len(keys) - 1)
        return np.where(keys[places] == numbers, ids[places], np.int32(0))

    def _text(self, distinct: pa.Array) -> Int32:
        keys, ids = self._order
        found = np.zeros(len(distinct), dtype=np.int32)
        if not len(keys) or not len(distinct):
            return found
        hashes = hash_strings(distinct)
        first = np.searchsorted(keys, hashes, side="left")
        last = np.searchsorted(keys, hashes, side="right")
        # A hash says where to look, the text itself decides; texts of one hash lie behind one another.
        for step in range(int((last - first).max())):
            rows = np.flatnonzero(first + step < last)
            held = ids[first[rows] + step]
            same = pc.equal(self.values.take(pa.array(held - 1)), distinct.take(pa.array(rows)))
            equal = same.to_numpy(zero_copy_only=False).astype(np.bool_)
            found[rows[equal]] = held[equal]
        return found

    # -- storing ------------------------------------------------------------------------------------------------
    def to_table(self) -> pa.Table:
        """Values and counts, with the facts as metadata."""
        facts = json.dumps({"format": FORMAT, **self.facts}, sort_keys=True)
        table = pa.table({"value": self.values, "count": self.counts})
        return table.replace_schema_metadata({_KEY: facts.encode()})

    @classmethod
    def from_table(cls, table: pa.Table, place: str) -> IdVocabulary:
        """Read what ``to_table`` gave.

        Raises:
            StorageError: it is no vocabulary of this release.
        """
        facts = json.loads((table.schema.metadata or {}).get(_KEY, b"{}"))
        if facts.pop("format", None) != FORMAT:
            raise StorageError(
                f"the file {place} is no vocabulary of this release", fix="Delete it, and it is built again."
            )
        values = table["value"].combine_chunks()
        return cls(values, table["count"].to_numpy(), facts)


def merge_counts(parts: Sequence[pa.Table]) -> pa.Table:
    """Sum the counts of equal values of several tables of ``value`` and ``count``."""
    together = pa.concat_tables(list(parts))
    return together.group_by("value").aggregate([("count", "sum")]).rename_columns(["value", "count"])
