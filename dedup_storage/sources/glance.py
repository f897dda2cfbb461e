"""Which sequence columns of a log want a dictionary, from a glance at some of its rows."""

from __future__ import annotations

from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.dedup.dictionary import MOST_ELEMENTS, MOST_LISTS, wants_dictionary
from dedup_storage.dedup.gather import list_parts
from dedup_storage.schema import LogSchema
from dedup_storage.sources.raw import RawLog

__all__ = ["dictionary_columns"]

# One row of so many is kept: rows that follow each other have the same request, and so the same lists.
_ONE_OF = 64
_NUMBER = "_dedup_number"
_NESTED = (T.ArrayType, T.MapType, T.StructType)


def dictionary_columns(raw: RawLog, schema: LogSchema) -> frozenset[str]:
    """Sequence columns whose lists want a dictionary: quantities, kinds of action, and no ids.

    Costs one task that reads some four thousand rows, of the middle file where there are files: a log's first rows may
    come from users without a history. A column whose lists are empty there gets no dictionary.

    Raises:
        DedupStorageError: the log cannot be read.
    """
    columns = [c for c in schema.sequence_columns if _flat_list(raw.frame.schema[c].dataType)]
    if not columns:
        return frozenset()
    rows = raw.frame
    if raw.located:
        files = sorted(rows.inputFiles())
        name = files[len(files) // 2].rpartition("/")[2]
        # Spark codes names in one place and not in the other.
        rows = rows.where(F.col("_metadata.file_name").isin(name, unquote(name)))
    hashed = (F.transform(F.slice(c, 1, MOST_ELEMENTS), lambda x: F.xxhash64(x)) for c in columns)
    # Numbers that begin anew in each task at a multiple of 2**33: the first row is among those kept.
    numbered = rows.select(*columns, F.monotonically_increasing_id().alias(_NUMBER))
    # A bounded number of bounded lists; a limit that is taken, not one inside a plan, runs one task.
    seen = numbered.where(F.col(_NUMBER) % _ONE_OF == 0).select(*hashed).take(MOST_LISTS)
    found = set()
    for number, column in enumerate(columns):
        values, offsets = list_parts(pa.array([row[number] for row in seen], pa.list_(pa.int64())))
        if wants_dictionary(np.asarray(values), offsets):
            found.add(column)
    return frozenset(found)


def _flat_list(kind: T.DataType) -> bool:
    return isinstance(kind, T.ArrayType) and not isinstance(kind.elementType, _NESTED)
