"""How many bytes the scans of some work read, as Spark counted them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

__all__ = ["Reads", "counted_reads"]


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
        ids = store.job(job_id).stageIds()
        stages |= {ids.apply(i) for i in range(ids.size())}
    for stage_id in stages:
        try:
            found.bytes += int(store.lastStageAttempt(stage_id).inputBytes())
        except Py4JJavaError:
            # A stage that was never run, since an earlier one left what it would have made.
            continue
