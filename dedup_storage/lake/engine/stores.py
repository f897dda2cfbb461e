"""What a Spark session reads files of object stores with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from dedup_storage.errors import ConfigError
from dedup_storage.lake.engine.sessions import SCRATCH, is_local
from dedup_storage.lake.folders import Store
from dedup_storage.lake.stores import HADOOP_NAMES, S3_SCHEMES, hadoop_settings, missing_package, of_hadoop, scheme_of

__all__ = ["require_file_system", "session_scratch", "session_store", "use_store"]


def session_store(spark: SparkSession) -> Store:
    """Opens addresses as the session does, so that Arrow and Spark read the same files with the same keys."""
    found = {}
    for name in HADOOP_NAMES:
        value = spark.conf.get(name, None) or spark.conf.get(f"spark.hadoop.{name}", None)
        if value is not None:
            found[name] = value
    return Store(of_hadoop(found))


def session_scratch(spark: SparkSession, source: str) -> str | Callable[[], str] | None:
    """Where rows are made plain Parquet for a session to read: a folder that its executors reach.

    Args:
        spark: The session.
        source: What the rows are of, for the message.

    Returns:
        The folder; ``None`` is this machine's temporary one. Where a cluster has none, what refuses when it is called:
        rows that are plain Parquet need no folder.
    """
    if is_local(spark):
        return None
    folder = spark.conf.get(SCRATCH, None)

    def refuse() -> str:
        raise ConfigError(
            f"rows of {source} are made plain Parquet before a cluster reads them, and no folder is named for that",
            expected="a folder that this machine and the cluster both reach",
            fix="Set spark.scratch to one, or give plain Parquet.",
        )

    return folder or refuse


def use_store(session: SparkSession, properties: Mapping[str, str]) -> None:
    """Let a session of one's own read a table's files as they lie, with the keys that its catalog vends.

    Args:
        session: One that nobody else uses.
        properties: Of the table's own client.
    """
    given = hadoop_settings(properties)
    if given == hadoop_settings(session_store(session).properties):
        return
    for key, value in given.items():
        session.conf.set(key, value)
    for scheme in S3_SCHEMES:
        # Hadoop keeps a file system for each bucket, whatever keys it was opened with.
        session.conf.set(f"fs.{scheme}.impl.disable.cache", "true")


def require_file_system(spark: SparkSession, place: str) -> None:
    """Refuse an address that the session cannot read, before anything is read.

    Raises:
        MissingDependencyError: names the package that brings what reads it.
    """
    scheme = scheme_of(place)
    if not scheme:
        return
    # The session's own settings are among them.
    conf = spark._jsparkSession.sessionState().newHadoopConf()
    try:
        spark._jvm.org.apache.hadoop.fs.FileSystem.getFileSystemClass(scheme, conf)  # type: ignore[union-attr]
    except (Py4JJavaError, PySparkException) as error:
        raise missing_package(scheme) from error
