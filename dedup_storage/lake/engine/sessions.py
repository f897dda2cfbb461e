"""Spark sessions with settings of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyspark import RDD, SparkConf, SparkContext
from pyspark.sql import DataFrame, SparkSession

from dedup_storage.lake.engine.fetching import alone_fetching
from dedup_storage.secrets import SECRET_NAME, is_secret_name

__all__ = [
    "SCRATCH",
    "SESSION_DEFAULTS",
    "SessionNeeds",
    "default_file_system",
    "in_own_session",
    "is_local",
    "is_stopped",
    "launch_java",
    "move_to",
    "run_session",
    "submitted_settings",
]

# What each setting is for: docs/decisions.md, 'Session settings'.
SESSION_DEFAULTS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.iceberg.planning.preserve-data-grouping": "true",
    "spark.sql.requireAllClusterKeysForCoPartition": "false",
    "spark.sql.adaptive.optimizeSkewsInRebalancePartitions.enabled": "false",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
    "spark.sql.artifact.isolation.enabled": "false",
    "spark.redaction.regex": SECRET_NAME,
}

# A session's setting of ours: where rows are passed from this machine to the executors.
SCRATCH = "spark.dedup_storage.scratch"
# Catalogs and stores, which may be defined while a session runs.
_DEFINED = ("spark.sql.catalog.", "fs.")
# Those that Java need not know before there is a session.
_LATER = ("spark.sql.catalog.", "spark.hadoop.")


@dataclass(frozen=True)
class SessionNeeds:
    """What a table format needs of a Spark session.

    Attributes:
        title: The format, for messages.
        extensions: Classes of ``spark.sql.extensions``.
        catalog: Settings that define a catalog, in a running session too.
        conf: Further settings of a new session.
        required: Those that a running session must have, since it cannot be given them.
        packages: To fetch beside the configured ones, where packages are fetched at all.
        excludes: Dependencies of packages that Spark brings itself.
    """

    title: str
    extensions: tuple[str, ...] = ()
    catalog: Mapping[str, str] = field(default_factory=dict)
    conf: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()


def submitted_settings() -> dict[str, str]:
    """What spark-submit was told, where it has started this process; else nothing."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return {}
    SparkContext._ensure_initialized()
    return dict(SparkConf().getAll())


def launch_java(conf: Mapping[str, str]) -> None:
    """Start Java, if none is there, before the session is, with the settings that may be seen.

    PySpark hands what a session is built with to Java's command line, which everybody on the machine can read.
    """
    shown = {key: value for key, value in conf.items() if not (key.startswith(_LATER) and is_secret_name(key))}
    with alone_fetching(conf):
        SparkContext._ensure_initialized(conf=SparkConf(loadDefaults=False).setAll(list(shown.items())))


def default_file_system(spark: SparkSession) -> str:
    """Where Spark looks for a path without a scheme, such as ``file:///``."""
    return str(spark.sparkContext._jsc.hadoopConfiguration().get("fs.defaultFS", "file:///"))


def run_session(spark: SparkSession) -> SparkSession:
    """A session with the same settings for one run.

    ``spark.wap.id`` is a session setting; a session of its own keeps concurrent runs of one application apart.
    """
    session = spark.newSession()
    for key, value in spark.conf.getAll.items():
        # Spark calls only settings that it registered itself modifiable.
        ours = key.startswith(_DEFINED) or spark.conf.isModifiable(key)
        if ours and session.conf.get(key, None) != value:
            session.conf.set(key, value)
    for key in SESSION_DEFAULTS:
        if spark.conf.isModifiable(key):
            session.conf.set(key, SESSION_DEFAULTS[key])
    return session


def is_local(spark: SparkSession) -> bool:
    """Whether the executors run on this machine, as threads of the driver or beside it."""
    return str(spark.sparkContext.master or "").startswith("local")


def is_stopped(session: SparkSession) -> bool:
    """Whether the application of a session has ended."""
    return bool(session.sparkContext._jsc.sc().isStopped())


def move_to(session: SparkSession, df: DataFrame) -> DataFrame:
    """The same frame, to be executed with another session's settings.

    It goes as it was analysed: what its expressions mean, such as a text read as a local time, was decided by the
    settings of the session that it was made in.
    """
    return _of_plan(session, df._jdf.queryExecution().analyzed())


def in_own_session(df: DataFrame, conf: Mapping[str, str]) -> DataFrame:
    """The same rows, planned whenever they are needed with settings that no other query sees.

    Spark plans lazily, so a setting put back after the call would be gone when the frame is run. The session is a copy:
    it shares the application, the catalogs' definitions, cached data and the temporary views that exist now.
    """
    patched = RDD.toDF
    session = SparkSession(df.sparkSession.sparkContext, df.sparkSession._jsparkSession.cloneSession())
    # A new session object takes over `RDD.toDF`; the caller's session keeps it.
    RDD.toDF = patched  # type: ignore[method-assign]
    for key, value in conf.items():
        session.conf.set(key, value)
    return _of_plan(session, df._jdf.queryExecution().analyzed())


def _of_plan(session: SparkSession, plan: Any) -> DataFrame:
    java = session._jvm.org.apache.spark.sql.classic.Dataset.ofRows(  # type: ignore[union-attr]
        session._jsparkSession, plan
    )
    return DataFrame(java, session)
