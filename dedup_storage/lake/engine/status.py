"""What Spark's own status store counted: bytes read, rows and bytes shuffled."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from dedup_storage.lake.engine.java import elements

__all__ = ["Reads", "Shuffled", "counted_reads", "counted_shuffles"]


@dataclass
class Reads:
    """What was read; 0 until the work has ended, and where the file system counts nothing."""

    bytes: int = 0


@dataclass
class Shuffled:
    """Rows and bytes that stages wrote for others to read; 0 until the work has ended."""

    rows: int = 0
    stored_bytes: int = 0


@contextmanager
def counted_reads(spark: SparkSession) -> Iterator[Reads]:
    """Count what the jobs started inside read, in this thread and no other."""
    found = Reads()
    with _counted_stages(spark) as stages:
        yield found
    found.bytes = sum(int(stage.inputBytes()) for stage in stages)


@contextmanager
def counted_shuffles(spark: SparkSession) -> Iterator[Shuffled]:
    """Count what the jobs started inside shuffled, in this thread and those that take over its tags."""
    found = Shuffled()
    with _counted_stages(spark) as stages:
        yield found
    found.rows = sum(int(stage.shuffleWriteRecords()) for stage in stages)
    found.stored_bytes = sum(int(stage.shuffleWriteBytes()) for stage in stages)


@contextmanager
def _counted_stages(spark: SparkSession) -> Iterator[list[Any]]:
    """The stages of the jobs started inside, found when they have ended.

    Jobs are found by a tag: a sum over all stages that Spark remembers would fall when it forgets the oldest ones.
    """
    context, tag, found = spark.sparkContext, f"counted-{uuid.uuid4().hex}", list[Any]()
    context.addJobTag(tag)
    try:
        yield found
    finally:
        context.removeJobTag(tag)
    scala = context._jsc.sc()
    scala.listenerBus().waitUntilEmpty()
    store = scala.statusStore()
    stages: set[int] = set()
    for job_id in scala.statusTracker().getJobIdsForTag(tag):
        stages |= set(elements(store.job(job_id).stageIds()))
    for stage_id in stages:
        try:
            found.append(store.lastStageAttempt(stage_id))
        except Py4JJavaError:
            # A stage that was never run, since an earlier one left what it would have made.
            continue
