"""The Spark session a job starts or joins."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import ConfigError
from dedup_storage.lake.engine.sessions import SESSION_DEFAULTS
from dedup_storage.lake.iceberg.catalog import spark_catalog_conf

__all__ = ["DELTA_PACKAGE", "get_spark"]

_ICEBERG_EXTENSIONS = "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
DELTA_PACKAGE = "io.delta:delta-spark_4.1_2.13:4.4.0"
_DELTA_EXTENSIONS = "io.delta.sql.DeltaSparkSessionExtension"
_DELTA_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
_SESSION_CATALOG = "spark.sql.catalog.spark_catalog"
# What delta-spark names as its dependencies and Spark brings itself, in the versions that it needs.
_DELTA_EXCLUDES = (
    "com.fasterxml.jackson.core:jackson-annotations",
    "com.fasterxml.jackson.core:jackson-core",
    "com.fasterxml.jackson.core:jackson-databind",
    "com.fasterxml.jackson.datatype:jackson-datatype-jdk8",
    "com.github.luben:zstd-jni",
    "com.google.code.findbugs:jsr305",
    "commons-pool:commons-pool",
    "io.airlift:aircompressor",
    "io.unitycatalog:unitycatalog-client",
    "io.unitycatalog:unitycatalog-hadoop",
    "javax.annotation:javax.annotation-api",
    "org.apache.hadoop:hadoop-client-api",
    "org.apache.hadoop:hadoop-client-runtime",
    "org.apache.logging.log4j:log4j-api",
    "org.apache.logging.log4j:log4j-core",
    "org.apache.logging.log4j:log4j-slf4j2-impl",
    "org.apache.parquet:parquet-column",
    "org.apache.parquet:parquet-hadoop",
    "org.locationtech.jts:jts-core",
    "org.roaringbitmap:RoaringBitmap",
    "org.slf4j:slf4j-api",
    "org.xerial.snappy:snappy-java",
)


def get_spark(settings: Settings, app_name: str = "dedup_storage") -> SparkSession:
    """Start Spark, or join the running session, with the catalog of ``settings`` defined.

    Raises:
        ConfigError: a session runs already with another catalog under the same name.
    """
    # Without this, Python workers start whatever `python3` is on the PATH, which lacks pyarrow.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    catalog = spark_catalog_conf(settings)
    running = SparkSession.getActiveSession()
    if running is not None and not running.sparkContext._jsc.sc().isStopped():
        return _adopt(running, catalog, settings)
    builder = SparkSession.builder.appName(app_name)
    if settings.spark.master:
        builder = builder.master(settings.spark.master)
    conf = {**SESSION_DEFAULTS, "spark.sql.extensions": _ICEBERG_EXTENSIONS, **catalog}
    # Every sort of a query holds a page. By default that is up to 64 MB, so 2 GB do not suffice to read twenty feature
    # groups; a row that is larger than a page gets one of its own.
    conf["spark.buffer.pageSize"] = "4m"
    if _uses_delta(settings):
        conf["spark.sql.extensions"] = f"{_ICEBERG_EXTENSIONS},{_DELTA_EXTENSIONS}"
        conf[_SESSION_CATALOG] = _DELTA_CATALOG
        # Delta's default of 50 tasks for a table's log suits logs of millions of files.
        conf["spark.databricks.delta.snapshotPartitions"] = "4"
    conf |= settings.spark.conf
    if settings.spark.packages:
        packages = list(settings.spark.packages)
        if _uses_delta(settings):
            if not any(_is_delta(p) for p in packages):
                packages.append(DELTA_PACKAGE)
            conf.setdefault("spark.jars.excludes", ",".join(_DELTA_EXCLUDES))
        conf["spark.jars.packages"] = ",".join(packages)
        # Java takes the home directory from the user database, not from $HOME.
        conf.setdefault("spark.jars.ivy", str(Path.home() / ".ivy2"))
    for key, value in conf.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel(conf.get("spark.log.level", "ERROR"))
    return spark


def _uses_delta(settings: Settings) -> bool:
    return settings.format == "delta" or any(map(_is_delta, settings.spark.packages))


def _is_delta(package: str) -> bool:
    return ":delta-spark_" in package


def _adopt(spark: SparkSession, catalog: dict[str, str], settings: Settings) -> SparkSession:
    """Define the catalog in a session somebody else started (a notebook, spark-submit)."""
    if settings.format == "delta" and spark.conf.get(_SESSION_CATALOG, None) != _DELTA_CATALOG:
        raise ConfigError(
            "the running Spark session is not set up for Delta",
            expected=f"spark.sql.extensions with {_DELTA_EXTENSIONS} and {_SESSION_CATALOG}={_DELTA_CATALOG}",
            fix="Set both where the session is started.",
        )
    for key, value in catalog.items():
        present = spark.conf.get(key, None)
        if present is None:
            spark.conf.set(key, value)
        elif present != value and key.endswith((".uri", ".type", ".warehouse")):
            raise ConfigError(
                f"the running Spark session has another value for {key}",
                fix="Stop that session, or give the catalog another name (catalog.name).",
            )
    for key in ("spark.sql.iceberg.planning.preserve-data-grouping", "spark.sql.requireAllClusterKeysForCoPartition"):
        spark.conf.set(key, SESSION_DEFAULTS[key])
    return spark
