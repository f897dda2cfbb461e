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

__all__ = ["Reads", "Shuffled", "counted_reads", "shuffled"]


@dataclass
class Reads:
    """What was read; 0 until the work has ended, and where the file system counts nothing."""

    bytes: int = 0


@contextmanager
def counted_reads(spark: SparkSession) -> Iterator[Reads]:
    """Count what the jobs started inside read, in this thread and no other."""
    context, tag, found = spark.sparkContext, f"reads-{uuid.uuid4().hex}", Reads()
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
            found.bytes += int(store.lastStageAttempt(stage_id).inputBytes())
        except Py4JJavaError:
            # A stage that was never run, since an earlier one left what it would have made.
            continue


@dataclass(frozen=True)
class Shuffled:
    """Rows and bytes that all stages so far wrote for others to read."""

    rows: int
    stored_bytes: int

    def __sub__(self, earlier: Shuffled) -> Shuffled:
        return Shuffled(self.rows - earlier.rows, self.stored_bytes - earlier.stored_bytes)


def shuffled(spark: SparkSession) -> Shuffled:
    """Sum over the stages that Spark remembers (the last 1,000 by default)."""
    stages = _stages(spark)
    return Shuffled(
        rows=sum(int(stage.shuffleWriteRecords()) for stage in stages),
        stored_bytes=sum(int(stage.shuffleWriteBytes()) for stage in stages),
    )


def _stages(spark: SparkSession) -> list[Any]:
    gateway: Any = spark.sparkContext._gateway
    store = spark.sparkContext._jsc.sc().statusStore()
    return elements(store.stageList(None, False, False, gateway.new_array(gateway.jvm.double, 0), None))
