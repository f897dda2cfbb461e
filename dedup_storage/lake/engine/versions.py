"""Which engines a session runs on, and what was added to it."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

from dedup_storage.lake.engine.java import has_class

__all__ = ["delta_version", "iceberg_version", "java_version", "lacking_classes", "rapids_version"]

_RAPIDS = "rapids4spark-version-info.properties"


def java_version(spark: SparkSession) -> str:
    """Java's version, such as ``17.0.15``."""
    jvm: Any = spark._jvm
    return str(jvm.java.lang.System.getProperty("java.version"))


def iceberg_version(spark: SparkSession) -> str:
    """Iceberg's version, such as ``1.12.0``."""
    jvm: Any = spark._jvm
    return str(jvm.org.apache.iceberg.IcebergBuild.version())


def delta_version(spark: SparkSession) -> str:
    """Delta's version, such as ``4.4.0``."""
    jvm: Any = spark._jvm
    return str(jvm.io.delta.package.VERSION())


def lacking_classes(spark: SparkSession, *names: str) -> list[str]:
    """Those of some classes that the driver does not find."""
    return [name for name in names if not has_class(spark._jvm, name)]


def rapids_version(spark: SparkSession) -> str | None:
    """The version that the RAPIDS plugin's jar says it has; ``None`` without such a jar."""
    jvm: Any = spark._jvm
    stream = jvm.java.lang.Thread.currentThread().getContextClassLoader().getResourceAsStream(_RAPIDS)
    if stream is None:
        return None
    read = jvm.java.util.Properties()
    try:
        read.load(stream)
    finally:
        stream.close()
    found = read.getProperty("version")
    return None if found is None else str(found)
