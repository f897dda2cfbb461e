"""The Spark session a job starts or joins."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyspark
from pyspark.sql import SparkSession

from dedup_storage.config import FORMATS, Settings
from dedup_storage.engines import require_engine
from dedup_storage.errors import ConfigError, MissingDependencyError
from dedup_storage.lake.engine.sessions import (
    SCRATCH,
    SESSION_DEFAULTS,
    SessionNeeds,
    default_file_system,
    is_stopped,
    launch_java,
    submitted_settings,
)
from dedup_storage.lake.engine.versions import lacking_classes
from dedup_storage.lake.rooms import room_part
from dedup_storage.lake.stores import hadoop_settings, store_packages

__all__ = ["get_spark", "session_conf"]

_EXTENSIONS, _PACKAGES, _EXCLUDES = "spark.sql.extensions", "spark.jars.packages", "spark.jars.excludes"
_REDACTION, _PYTHON = "spark.redaction.regex", "spark.pyspark.python"
_ROWS_READ = "spark.sql.parquet.columnarReaderBatchSize"
_CODE_KEPT = "spark.sql.codegen.cache.maxEntries"
# What spark-submit takes where nobody names a master.
_NO_MASTER = "local[*]"
# Of a catalog, what has to be the same for every client.
_TELLING = (".uri", ".type", ".warehouse")


def get_spark(settings: Settings, app_name: str = "dedup_storage") -> SparkSession:
    """Start Spark, or join the running session, with the catalog of ``settings`` defined.

    What spark-submit was told goes together with the settings: its master wins, its extensions are kept.

    Raises:
        ConfigError: a session runs already, or Spark is told of, another catalog under the same name; the warehouse is
            a path that Spark would look for elsewhere.
        MissingDependencyError: spark-submit has started without a jar that is needed.
    """
    needs: list[SessionNeeds] = [room_part(name, "session").session_needs(settings) for name in FORMATS]
    running = SparkSession.getActiveSession()
    if running is not None and not is_stopped(running):
        _require_place(running, settings)
        if settings.shared_folder is not None:
            running.conf.set(SCRATCH, settings.shared_folder)
        return _adopt(running, needs, hadoop_settings(settings.catalog.properties))
    # Without this, Python workers start whatever `python3` is on the PATH, which lacks pyarrow.
    os.environ.setdefault("PYSPARK_PYTHON", settings.spark.conf.get(_PYTHON, sys.executable))
    submitted = submitted_settings()
    conf = session_conf(settings, needs, submitted)
    launch_java(conf)
    builder = SparkSession.builder.appName(app_name)
    for key, value in conf.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel(conf.get("spark.log.level", "ERROR"))
    if submitted:
        _require_jars(spark, settings, conf.get(_PACKAGES, ""))
    _require_place(spark, settings)
    return spark


def session_conf(settings: Settings, needs: Sequence[SessionNeeds], submitted: Mapping[str, str]) -> dict[str, str]:
    """Settings of a new session; those that the user gives win, and lists are put together.

    Args:
        settings: The configuration.
        needs: Of each format.
        submitted: What spark-submit was told.

    Raises:
        ConfigError: Spark is told of another catalog under the same name.
    """
    given = settings.spark.conf
    conf = dict(SESSION_DEFAULTS)
    # Every sort of a query holds a page. By default that is up to 64 MB, so 2 GB do not suffice to read twenty feature
    # groups; a row that is larger than a page gets one of its own.
    conf["spark.buffer.pageSize"] = submitted.get("spark.buffer.pageSize", "4m")
    # Spark's reader of Parquet holds so many rows at once, with all elements of their lists; 4096 would be its own.
    conf[_ROWS_READ] = submitted.get(_ROWS_READ, "512")
    # Queries are compiled to code, which is kept of the newest so many; a write is some thirty to sixty of Spark's own
    # 100, so that writes into two datasets in turn compiled most of it anew, and Java began to optimise it anew.
    conf[_CODE_KEPT] = submitted.get(_CODE_KEPT, "400")
    # By default PySpark tells the JVM the line of each column expression, in six calls; a traceback names it too.
    conf["spark.python.sql.dataFrameDebugging.enabled"] = "false"
    for need in needs:
        _refuse_other_catalog(need.catalog, {**submitted, **given})
        conf |= {**need.catalog, **need.conf}
    conf |= {f"spark.hadoop.{key}": value for key, value in hadoop_settings(settings.catalog.properties).items()}
    if settings.shared_folder is not None:
        conf[SCRATCH] = settings.shared_folder
    conf |= given
    own = [e for need in needs for e in need.extensions]
    conf[_EXTENSIONS] = _listed(own, given.get(_EXTENSIONS), submitted.get(_EXTENSIONS))
    others = [text[_REDACTION] for text in (given, submitted) if _REDACTION in text]
    conf[_REDACTION] = "|".join((SESSION_DEFAULTS[_REDACTION], *others))
    master = submitted.get("spark.master", _NO_MASTER)
    if master != _NO_MASTER:
        conf["spark.master"] = master
    elif settings.spark.master and "spark.master" not in given:
        conf["spark.master"] = settings.spark.master
    if settings.spark.packages:
        of_store, left_out = store_packages(settings)
        packages = [*settings.spark.packages, *(p for need in needs for p in need.packages), *of_store]
        require_engine(packages, pyspark.__version__)
        if of_store:
            # Iceberg names its tables' places by s3://, which Hadoop knows by another name.
            conf.setdefault("spark.hadoop.fs.s3.impl", "org.apache.hadoop.fs.s3a.S3AFileSystem")
        excludes = _listed([*(e for need in needs for e in need.excludes), *left_out], given.get(_EXCLUDES))
        if excludes:
            conf[_EXCLUDES] = excludes
        conf[_PACKAGES] = _listed(packages, given.get(_PACKAGES))
        # Java takes the home directory from the user database, not from $HOME.
        conf.setdefault("spark.jars.ivy", str(Path.home() / ".ivy2"))
    return conf


def _listed(own: Iterable[str], *others: str | None) -> str:
    """Names, each once, as Spark lists them: those of the toolkit, then those of the user."""
    names = [*own, *(name.strip() for text in others if text for name in text.split(","))]
    return ",".join(dict.fromkeys(filter(None, names)))


def _refuse_other_catalog(catalog: Mapping[str, str], told: Mapping[str, str]) -> None:
    """Refuse settings of Spark by which its catalog would be another one than that of lists and readers.

    Raises:
        ConfigError: names the key; no value is repeated.
    """
    for key, value in catalog.items():
        if key.endswith(_TELLING) and told.get(key, value) != value:
            raise ConfigError(
                f"Spark is told another value of {key} than the settings have",
                fix="Leave it out of spark.conf and of what spark-submit is told: it follows from the section catalog.",
            )


def _require_jars(spark: SparkSession, settings: Settings, packages: str) -> None:
    """Refuse to begin without the engines' jars: spark-submit has fetched what it was told, and nothing else.

    Raises:
        MissingDependencyError: names what to tell it.
    """
    jars = [jar for name in FORMATS for jar in room_part(name, "probes").jars_needed(settings)]
    lacking = set(lacking_classes(spark, *(jar.marker for jar in jars)))
    if lacking:
        gone = ", ".join(jar.coordinate for jar in jars if jar.marker in lacking)
        raise MissingDependencyError(
            f"spark-submit was started without {gone}",
            expected="the jars on its command line: Java was running before spark.packages was read",
            fix=f"Add --packages {packages or gone.replace(', ', ',')}, or give the cluster the jars.",
        )


def _require_place(spark: SparkSession, settings: Settings) -> None:
    """Refuse a warehouse that Spark looks for in another file system than lists and readers do.

    Raises:
        ConfigError: it is a path without a scheme, and Spark's default is not this machine.
    """
    folder, default = settings.local_warehouse, default_file_system(spark)
    if folder is not None and "://" not in settings.warehouse_uri and not default.startswith("file:"):
        raise ConfigError(
            f"the warehouse {folder} has no scheme, so that Spark looks for it on {default}",
            expected="an address, which means the same to everybody",
            fix=f"Write {default.rstrip('/')}{folder}, or file://{folder}.",
        )


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
        elif present != value and key.endswith(_TELLING):
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
