"""Writes a synthetic log with Spark: each task makes and writes whole files, the driver sees only their sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyspark.sql import SparkSession

from dedup_storage.synth.files import GeneratedFile, GeneratedLog, finish, prepare, resolve, write_file
from dedup_storage.synth.params import SynthParams

__all__ = ["generate"]

_RESULT = pa.schema([("table", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64())])


def generate(spark: SparkSession, params: SynthParams, path: str) -> GeneratedLog:
    """Write a synthetic raw log as Parquet, one task per file.

    The bytes depend on the parameters alone: not on the number of executors, nor on retried or speculative tasks.

    Args:
        spark: The session.
        params: The log.
        path: New directory (path or URI that every executor reaches), or one that holds this very log already.

    Returns:
        Where the tables lie, and their sizes.

    Raises:
        InputError: the directory holds something else.
        StorageError: the directory cannot be created.
    """
    place = resolve(path)
    prepare(params, place)
    tables = params.tables
    count = len(tables) * params.files

    def write(tasks: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in tasks:
            for task in batch.column("id").to_pylist():
                made = write_file(params, place, tables[task % len(tables)], task // len(tables))
                yield pa.record_batch([[made.table], [made.rows], [made.bytes]], schema=_RESULT)

    done = spark.range(0, count, 1, count).mapInArrow(write, "table string, rows bigint, bytes bigint").collect()
    return finish(params, place, [GeneratedFile(row.table, row.rows, row.bytes) for row in done])
