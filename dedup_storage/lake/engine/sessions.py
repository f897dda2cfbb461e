"""Spark sessions with settings of their own."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession

__all__ = ["SESSION_DEFAULTS", "move_to", "run_session"]

# What each setting is for: docs/decisions.md, 'Session settings'.
SESSION_DEFAULTS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.iceberg.planning.preserve-data-grouping": "true",
    "spark.sql.requireAllClusterKeysForCoPartition": "false",
    "spark.sql.adaptive.optimizeSkewsInRebalancePartitions.enabled": "false",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
    "spark.redaction.regex": "(?i)secret|password|token|credential|access[.]?key",
}

_CATALOGS = "spark.sql.catalog."


def run_session(spark: SparkSession) -> SparkSession:
    """A session with the same settings for one run.

    ``spark.wap.id`` is a session setting; a session of its own keeps concurrent runs of one application apart.
    """
    session = spark.newSession()
    for key, value in spark.conf.getAll.items():
        # Spark calls only settings that it registered itself modifiable, and catalogs may be defined while it runs.
        ours = key.startswith(_CATALOGS) or spark.conf.isModifiable(key)
        if ours and session.conf.get(key, None) != value:
            session.conf.set(key, value)
    for key in SESSION_DEFAULTS:
        if spark.conf.isModifiable(key):
            session.conf.set(key, SESSION_DEFAULTS[key])
    return session


def move_to(session: SparkSession, df: DataFrame) -> DataFrame:
    """The same frame, to be executed with another session's settings.

    It goes as it was analysed: what its expressions mean, such as a text read as a local time, was decided by the
    settings of the session that it was made in.
    """
    java = session._jvm.org.apache.spark.sql.classic.Dataset.ofRows(  # type: ignore[union-attr]
        session._jsparkSession, df._jdf.queryExecution().analyzed()
    )
    return DataFrame(java, session)
