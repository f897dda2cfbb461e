"""The Spark session a job starts or joins."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyspark.sql import SparkSession

from dedup_storage.config import FORMATS, Settings
from dedup_storage.errors import ConfigError
from dedup_storage.lake.engine.sessions import SESSION_DEFAULTS, SessionNeeds, is_stopped
from dedup_storage.lake.rooms import room_part
from dedup_storage.lake.stores import hadoop_settings, store_packages

__all__ = ["get_spark"]

_EXTENSIONS = "spark.sql.extensions"


def get_spark(settings: Settings, app_name: str = "dedup_storage") -> SparkSession:
    """Start Spark, or join the running session, with the catalog of ``settings`` defined.

    Raises:
        ConfigError: a session runs already with another catalog under the same name.
    """
    # Without this, Python workers start whatever `python3` is on the PATH, which lacks pyarrow.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    needs: list[SessionNeeds] = [room_part(name, "session").session_needs(settings) for name in FORMATS]
    running = SparkSession.getActiveSession()
    if running is not None and not is_stopped(running):
        return _adopt(running, needs, hadoop_settings(settings.catalog.properties))
    builder = SparkSession.builder.appName(app_name)
    if settings.spark.master:
        builder = builder.master(settings.spark.master)
    conf = _conf(settings, needs)
    for key, value in conf.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel(conf.get("spark.log.level", "ERROR"))
    return spark


def _conf(settings: Settings, needs: Sequence[SessionNeeds]) -> dict[str, str]:
    """Settings of a new session; those that the user gives win."""
    conf = {**SESSION_DEFAULTS, _EXTENSIONS: ",".join(e for need in needs for e in need.extensions)}
    # Every sort of a query holds a page. By default that is up to 64 MB, so 2 GB do not suffice to read twenty feature
    # groups; a row that is larger than a page gets one of its own.
    conf["spark.buffer.pageSize"] = "4m"
    # By default PySpark tells the JVM the line of each column expression, in six calls; a traceback names it too.
    conf["spark.python.sql.dataFrameDebugging.enabled"] = "false"
    for need in needs:
        conf |= {**need.catalog, **need.conf}
    conf |= {f"spark.hadoop.{key}": value for key, value in hadoop_settings(settings.catalog.properties).items()}
    conf |= settings.spark.conf
    if settings.spark.packages:
        of_store, left_out = store_packages(settings)
        packages = [*settings.spark.packages, *(p for need in needs for p in need.packages), *of_store]
        excludes = [*(e for need in needs for e in need.excludes), *left_out]
        if of_store:
            # Iceberg names its tables' places by s3://, which Hadoop knows by another name.
            conf.setdefault("spark.hadoop.fs.s3.impl", "org.apache.hadoop.fs.s3a.S3AFileSystem")
        if excludes:
            conf.setdefault("spark.jars.excludes", ",".join(excludes))
        conf["spark.jars.packages"] = ",".join(packages)
        # Java takes the home directory from the user database, not from $HOME.
        conf.setdefault("spark.jars.ivy", str(Path.home() / ".ivy2"))
    return conf


def _adopt(spark: SparkSession, needs: Sequence[SessionNeeds], store: Mapping[str, str]) -> SparkSession:
    """Define the catalog and the store in a session somebody else started (a notebook, spark-submit)."""
    for need in needs:
        if any(spark.conf.get(key, None) != value for key, value in need.required.items()):
            required = " and ".join(f"{key}={value}" for key, value in need.required.items())
            raise ConfigError(
                f"the running Spark session is not set up for {need.title}",
                expected=f"{_EXTENSIONS} with {', '.join(need.extensions)} and {required}",
                fix="Set both where the session is started.",
            )
    for key, value in (item for need in needs for item in need.catalog.items()):
        present = spark.conf.get(key, None)
        if present is None:
            spark.conf.set(key, value)
        elif present != value and key.endswith((".uri", ".type", ".warehouse")):
            raise ConfigError(
                f"the running Spark session has another value for {key}",
                fix="Stop that session, or give the catalog another name (catalog.name).",
            )
    for key, value in store.items():
        if spark.conf.get(key, None) is None and spark.conf.get(f"spark.hadoop.{key}", None) is None:
            spark.conf.set(key, value)
    for key in ("spark.sql.iceberg.planning.preserve-data-grouping", "spark.sql.requireAllClusterKeysForCoPartition"):
        spark.conf.set(key, SESSION_DEFAULTS[key])
    return spark
