"""Unsigned integers of 64 bits, which no table format has: as signed ones where all of them fit. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_storage.report.parquet.footers import DataFile, Resolve
from dedup_storage.report.parquet.one_schema import open_parquet

__all__ = ["UNSIGNED", "fits_signed"]

# The least type that holds all of them.
UNSIGNED = pa.decimal128(20, 0)
_BEYOND = 2**63


def fits_signed(files: Sequence[DataFile], column: str, resolve: Resolve) -> bool:
    """Whether every value of a column is below 2**63: by the files' statistics, else by the values of that column.

    Args:
        files: Parquet files; those without the column count for nothing.
        column: A column of unsigned integers of 64 bits.
        resolve: Finds the file system of a file.
    """
    for file in files:
        filesystem, inner = resolve(file.path)
        with filesystem.open_input_file(inner) as stream:
            parquet = open_parquet(stream)
            if column in parquet.schema_arrow.names and not _file_fits(parquet, column):
                return False
    return True


def _file_fits(parquet: pq.ParquetFile, column: str) -> bool:
    place = next(i for i in range(len(parquet.schema)) if parquet.schema.column(i).path == column)
    for group in range(parquet.metadata.num_row_groups):
        statistics = parquet.metadata.row_group(group).column(place).statistics
        if statistics is not None and statistics.has_min_max and isinstance(statistics.max, int):
            greatest = statistics.max
        else:
            greatest = pc.max(parquet.read_row_group(group, columns=[column])[column]).as_py()
        if greatest is not None and not 0 <= greatest < _BEYOND:
            return False
    return True
