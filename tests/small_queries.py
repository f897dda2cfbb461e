"""Settings of Spark sessions whose queries are over a few rows: they are planned and compiled longer than they run."""

from __future__ import annotations

__all__ = ["SMALL_QUERIES"]

# Interpreted queries more than halve that; a table's log of a few lines is read by one task.
SMALL_QUERIES = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.ui.explainMode": "simple",
    "spark.databricks.delta.snapshotPartitions": "1",
}
