"""Writes a synthetic log with Spark: each task makes and writes one file, the driver sees only its size."""

from __future__ import annotations

from pyspark.sql import SparkSession

from dedup_storage.lake.engine.stores import session_store
from dedup_storage.synth.files import GeneratedLog, finish, prepare, resolve, write_file
from dedup_storage.synth.params import SynthParams

__all__ = ["generate"]


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
    place, store = resolve(path), session_store(spark)
    prepare(params, place, store)
    tasks = [(table, file) for file in range(params.files) for table in params.tables]
    # An RDD rather than a DataFrame: its Python workers need not load pandas, which takes longer than a small file.
    work = spark.sparkContext.parallelize(tasks, len(tasks))
    # What comes back is a file's name and size for each task.
    return finish(params, place, work.map(lambda task: write_file(params, place, *task, store)).collect(), store)
