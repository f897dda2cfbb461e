"""What a Spark session needs to know Delta tables."""

from __future__ import annotations

from dedup_storage.config import Settings
from dedup_storage.engines import installed_engine
from dedup_storage.lake.engine.sessions import SessionNeeds

__all__ = ["DELTA_PACKAGE", "session_needs"]

DELTA_PACKAGE = installed_engine().delta
_CATALOG = {"spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog"}
# Delta's default of 50 tasks for a table's log suits logs of millions of files.
_FEW_TASKS = {"spark.databricks.delta.snapshotPartitions": "4"}
# What delta-spark names as its dependencies and Spark brings itself, in the versions that it needs.
_EXCLUDES = (
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


def session_needs(settings: Settings) -> SessionNeeds:
    """Delta's extension, catalog and package, where the settings name the format or its package; else nothing."""
    named = any(":delta-spark_" in package for package in settings.spark.packages)
    if settings.format != "delta" and not named:
        return SessionNeeds(title="Delta")
    return SessionNeeds(
        title="Delta",
        extensions=("io.delta.sql.DeltaSparkSessionExtension",),
        conf={**_CATALOG, **_FEW_TASKS},
        required=_CATALOG if settings.format == "delta" else {},
        packages=() if named else (DELTA_PACKAGE,),
        excludes=_EXCLUDES,
    )
