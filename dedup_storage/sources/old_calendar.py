"""Dates and times of Parquet files that Spark wrote in the Julian calendar of before 1582. Pure.

Spark up to 2.4, and later ones that are set to ``LEGACY``, count days as the calendar of their time did, and say so in
the footer alone. Spark turns such days into today's when it reads them; Arrow, Iceberg and every other reader take the
numbers as they are. Both give the same days from 1582-10-15 on, and the same instants from 1900 on, before which
Spark's table of local times differs too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_storage.errors import InputError
from dedup_storage.schema import TimeUnit

__all__ = ["refuse_old_calendar"]

_VERSION = b"org.apache.spark.version"
_OLD_DAYS, _OLD_INT96 = b"org.apache.spark.legacyDateTime", b"org.apache.spark.legacyINT96"
# Releases up to these always wrote in the old calendar; Spark compares their names as texts, too.
_NEW_DAYS, _NEW_INT96 = b"3.0.0", b"3.1.0"
_FIRST_DAY = -141_427
_FIRST_SECOND = -2_208_988_800
_UNITS = {"milliseconds": TimeUnit.MS, "microseconds": TimeUnit.US, "nanoseconds": TimeUnit.NS}


def refuse_old_calendar(file: pq.ParquetFile, path: str) -> None:
    """Refuse a file in which a date or a time would be another one to Spark than to Arrow.

    Values are looked at only in files whose footer tells of the old calendar, and where statistics do not tell.

    Args:
        file: The file, open.
        path: Its name, for the message.

    Raises:
        InputError: names the file, the column and the remedy.
    """
    told = file.metadata.metadata or {}
    version = told.get(_VERSION)
    if version is None:
        return
    days, int96 = version < _NEW_DAYS or _OLD_DAYS in told, version < _NEW_INT96 or _OLD_INT96 in told
    for place in range(len(file.schema) if days or int96 else 0):
        leaf = file.schema.column(place)
        of_days = days and leaf.logical_type.type in ("DATE", "TIMESTAMP")
        if (of_days or (int96 and leaf.physical_type == "INT96")) and _holds_old(file, place):
            setting = "int96RebaseModeInWrite" if leaf.physical_type == "INT96" else "datetimeRebaseModeInWrite"
            raise InputError(
                f"the column {leaf.path.partition('.')[0]} holds dates before 1582-10-15, or times before 1900, in the "
                f"old calendar of Spark, in {path}",
                expected="dates and times of today's calendar, which every engine reads alike",
                got=f"a file of Spark {version.decode(errors='replace')}",
                fix="Read the file with Spark 3 or newer, which turns them into today's, and write it again with "
                f"spark.sql.parquet.{setting} set to CORRECTED.",
            )


def _holds_old(file: pq.ParquetFile, place: int) -> bool:
    """Whether a leaf holds a value that the two calendars tell otherwise."""
    leaf = file.schema.column(place)
    logical = json.loads(leaf.logical_type.to_json())
    unit = _UNITS.get(logical.get("timeUnit"))
    first = _FIRST_DAY if unit is None else _FIRST_SECOND * unit.per_second
    for group in range(file.metadata.num_row_groups):
        found = file.metadata.row_group(group).column(place).statistics
        if leaf.physical_type != "INT96" and found is not None and found.has_min_max:
            if found.min_raw < first:
                return True
        elif any(map(_is_old, _times(file.read_row_group(group, columns=[leaf.path])))):
            return True
    return False


def _times(table: pa.Table) -> Iterator[pa.Array]:
    """The dates and times of a table, also those inside lists, maps and structs."""
    for column in table.columns:
        for chunk in column.chunks:
            yield from _inside(chunk)


def _inside(values: pa.Array) -> Iterator[pa.Array]:
    types, kind = pa.types, values.type
    if types.is_struct(kind):
        for part in values.flatten():
            yield from _inside(part)
    elif types.is_map(kind):
        yield from _inside(values.keys)
        yield from _inside(values.items)
    elif types.is_list(kind) or types.is_large_list(kind):
        yield from _inside(values.flatten())
    elif types.is_date32(kind) or types.is_timestamp(kind):
        yield values


def _is_old(values: pa.Array) -> bool:
    if pa.types.is_date32(values.type):
        first, numbers = _FIRST_DAY, values.view(pa.int32())
    else:
        first, numbers = _FIRST_SECOND * TimeUnit(values.type.unit).per_second, values.view(pa.int64())
    least = pc.min(numbers).as_py()
    return least is not None and least < first
