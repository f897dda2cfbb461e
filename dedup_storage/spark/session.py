"""The Spark session a job starts or joins."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import ConfigError
from dedup_storage.tables.catalog import spark_catalog_conf
from dedup_storage.tables.sessions import SESSION_DEFAULTS

__all__ = ["get_spark"]

_ICEBERG_EXTENSIONS = "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"


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
        return _adopt(running, catalog)
    builder = SparkSession.builder.appName(app_name)
    if settings.spark.master:
        builder = builder.master(settings.spark.master)
    conf = {**SESSION_DEFAULTS, "spark.sql.extensions": _ICEBERG_EXTENSIONS, **catalog, **settings.spark.conf}
    if settings.spark.packages:
        conf["spark.jars.packages"] = ",".join(settings.spark.packages)
        # Java takes the home directory from the user database, not from $HOME.
        conf.setdefault("spark.jars.ivy", str(Path.home() / ".ivy2"))
    for key, value in conf.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel(conf.get("spark.log.level", "ERROR"))
    return spark


def _adopt(spark: SparkSession, catalog: dict[str, str]) -> SparkSession:
    """Define the catalog in a session somebody else started (a notebook, spark-submit)."""
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
