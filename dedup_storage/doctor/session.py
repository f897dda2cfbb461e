"""Probes of a running session: its engines, and whether joins stay inside their buckets and keep their rows."""

from __future__ import annotations

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.joins import bucket_join
from dedup_storage.dataset.joins.plugins import losing_plugins, other_engines
from dedup_storage.dataset.joins.settings import BUCKET_JOIN, UNSAFE, missing
from dedup_storage.doctor.machine import jars_needed
from dedup_storage.engines import installed_engine
from dedup_storage.lake.engine.versions import delta_version, iceberg_version, java_version, lacking_classes
from dedup_storage.lake.probing import ROWS, Finding, Probes, State
from dedup_storage.spark.errors import translated
from dedup_storage.words import counted

__all__ = ["take_joins", "take_session"]

ENGINES = "engine versions"


def take_session(spark: SparkSession, settings: Settings, probes: Probes) -> bool:
    """Take the probes of engines; gives whether all of them are there."""
    return probes.take(ENGINES, lambda: _engines(spark, settings))


def _engines(spark: SparkSession, settings: Settings) -> Finding | str:
    jars = jars_needed(settings)
    lacking = set(lacking_classes(spark, *(jar.marker for jar in jars)))
    if lacking:
        gone = [jar for jar in jars if jar.marker in lacking]
        return Finding(
            "Spark does not find " + ", ".join(f"{jar.coordinate} ({jar.purpose})" for jar in gone),
            State.MISSING,
            "Name it under spark.packages, or give the cluster the jar.",
        )
    tried = {jar.purpose: jar.coordinate.rpartition(":")[2] for jar in jars}
    found = {"Iceberg": iceberg_version(spark)}
    if "Delta" in tried:
        found["Delta"] = delta_version(spark)
    tried["Spark"], found = installed_engine().spark, {"Spark": spark.version, **found}
    told = ", ".join(f"{name} {version}" for name, version in found.items())
    others = [f"{name} {tried[name]}" for name, version in found.items() if version != tried[name]]
    told = f"{told}, Java {java_version(spark)}, {spark.sparkContext.master}"
    if others:
        return Finding(told, State.WARNING, f"Tried was {', '.join(others)}: private interfaces may have changed.")
    return told


def take_joins(spark: SparkSession, bucketed: str | None, probes: Probes) -> None:
    """Take the probes of joins.

    Args:
        spark: The session.
        bucketed: A table of ``ROWS`` rows in buckets by ``user_id``; ``None`` where there is none.
        probes: Takes the results.
    """
    probes.take("joins: settings", lambda: _settings(spark))
    probes.take("joins: plugins", lambda: _plugins(spark))
    if bucketed is not None:
        probes.take("joins: inside buckets", lambda: _join(spark, bucketed))


def _settings(spark: SparkSession) -> Finding | str:
    unsafe = [key for key, value in missing(spark, UNSAFE).items() if value.lower() == "true"]
    if unsafe:
        return Finding(
            f"this session has {', '.join(unsafe)} on, with which Spark loses rows of joins",
            State.WARNING,
            "Set it to false where the session is configured; bucket_join does so for its own joins, other code does "
            "not.",
        )
    others = missing(spark, BUCKET_JOIN)
    if others:
        return f"bucket_join sets {counted(len(others), 'setting')} of {len(BUCKET_JOIN)} in a session of its own"
    return "set in this session"


def _plugins(spark: SparkSession) -> Finding | str:
    losing = losing_plugins(spark)
    if losing:
        return Finding(
            "; ".join(f"{plugin.told} loses rows of {plugin.loses}" for plugin in losing),
            # Tables of one dataset have equal counts, and reading it joins them.
            State.WARNING if all(plugin.unequal for plugin in losing) else State.MISSING,
            " ".join(plugin.remedy for plugin in losing)
            + " Until then bucket_join refuses such joins; plain SQL does not.",
        )
    others = other_engines(spark)
    if others:
        return Finding(
            f"{', '.join(others)} runs parts of plans in Spark's place, and was not tried",
            State.WARNING,
            "Compare the results of a few joins with those of a session without it.",
        )
    return "none that is known to lose rows"


def _join(spark: SparkSession, table: str) -> Finding | str:
    with translated():
        rows = spark.read.table(table)
        both = bucket_join(rows, rows.select("user_id", (F.col("number") + 1).alias("next")), "user_id")
        got = both.agg(F.count("*").alias("rows"), F.sum(F.col("next") - F.col("number")).alias("sum")).first()
    if got is None or (got["rows"], got["sum"]) != (ROWS, ROWS):
        return Finding(f"{got} where {ROWS} rows were joined", State.MISSING, "Report this: rows were lost.")
    return f"{ROWS} rows joined, none moved"
