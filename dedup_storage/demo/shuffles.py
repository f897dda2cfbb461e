"""What Spark shuffled between two moments, from its own status store."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import SparkSession

__all__ = ["Shuffled", "shuffled"]


@dataclass(frozen=True)
class Shuffled:
    """Rows and bytes that all stages so far wrote for others to read."""

    rows: int
    stored_bytes: int

    def __sub__(self, earlier: Shuffled) -> Shuffled:
        return Shuffled(self.rows - earlier.rows, self.stored_bytes - earlier.stored_bytes)


def shuffled(spark: SparkSession) -> Shuffled:
    """Sum over the stages that Spark remembers (the last 1,000 by default)."""
    context = spark.sparkContext
    gateway = context._gateway
    if gateway is None:
        return Shuffled(0, 0)
    nothing = gateway.new_array(gateway.jvm.double, 0)
    empty = gateway.jvm.java.util.ArrayList()
    stages = context._jsc.sc().statusStore().stageList(empty, False, False, nothing, empty)
    rows = stored_bytes = 0
    for number in range(stages.size()):
        stage = stages.apply(number)
        rows += stage.shuffleWriteRecords()
        stored_bytes += stage.shuffleWriteBytes()
    return Shuffled(rows, stored_bytes)
