"""What a store can do of what Delta tables ask of it, tried in a folder that is removed afterwards."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dedup_storage.config import Settings
from dedup_storage.lake.delta.open import load_delta
from dedup_storage.lake.delta.session import DELTA_PACKAGE
from dedup_storage.lake.folders import delete_folder
from dedup_storage.lake.probing import (
    CONDITIONAL_PUT,
    ROWS,
    SCRATCH_PREFIX,
    STORE_WRITE,
    Finding,
    FormatProbes,
    Jar,
    NewFolders,
    Probes,
    State,
)
from dedup_storage.lake.sql import literal
from dedup_storage.lake.stores import delta_options

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["DeltaProbes", "jars_needed", "open_probes"]

_S3 = ("s3://", "s3a://")
_HADOOP_S3 = Jar("org.apache.hadoop:hadoop-aws:3.4.2", "org.apache.hadoop.fs.s3a.S3AFileSystem", "Spark on an S3 store")
_SPARK_LOG = "Spark: Delta table"
_PUT_REMEDY = "Use a store that refuses to write a file that is there (If-None-Match); with this one versions get lost."
_STORE_REMEDY = "Give Spark the store's keys: spark.conf, spark.hadoop.fs.s3a.*; and hadoop-aws in spark.packages."
_SCHEMA = pa.schema([("user_id", pa.int64())])


class DeltaProbes:
    """The ``FormatProbes`` of Delta.

    Args:
        settings: The configuration.
        probes: Takes the results.
    """

    # Delta tells Spark nothing of buckets.
    bucketed: str | None = None
    hands_out_keys = False

    def __init__(self, settings: Settings, probes: Probes) -> None:
        self.settings, self.probes = settings, probes
        self._folders = NewFolders(settings.local_warehouse)
        self._uri = f"{settings.warehouse_uri}/{SCRATCH_PREFIX}{uuid.uuid4().hex[:8]}"
        self._options = delta_options(settings.catalog.properties)

    def place(self) -> str | None:
        """See ``FormatProbes``: the warehouse."""
        return self.settings.warehouse_uri

    def catalog(self) -> None:
        """See ``FormatProbes``: there is none; its place is taken by conditional writes of the log."""
        take = self.probes.take
        take("catalog", lambda: Finding("format delta has none: tables are folders", State.NOT_NEEDED))
        take(CONDITIONAL_PUT, self._writers, remedy=_PUT_REMEDY, needs=(STORE_WRITE,))

    def _writers(self) -> Finding | str:
        from deltalake import DeltaTable, write_deltalake
        from deltalake.exceptions import CommitFailedError

        uri = f"{self._uri}/events"
        DeltaTable.create(uri, schema=_SCHEMA, storage_options=self._options)
        early, late = load_delta(uri, self._options), load_delta(uri, self._options)
        rows = pa.table({"user_id": [1]}, schema=_SCHEMA)
        write_deltalake(early, rows, mode="append", commit_properties=_once())
        try:
            write_deltalake(late, rows, mode="append", commit_properties=_once())
        except CommitFailedError:
            return "of two writers of one version the second was refused"
        return Finding("of two writers of one version both were told that they came first", State.MISSING, _PUT_REMEDY)

    def engine(self, spark: SparkSession) -> None:
        """See ``FormatProbes``."""
        self.probes.take(_SPARK_LOG, lambda: self._table(spark), remedy=_STORE_REMEDY, needs=(STORE_WRITE,))
        if self.settings.warehouse_uri.startswith(_S3):
            self.probes.take("Spark: two drivers", lambda: self._drivers(spark))

    def _table(self, spark: SparkSession) -> Finding | str:
        from dedup_storage.lake.delta.log import TableLog
        from dedup_storage.spark.errors import translated

        uri = f"{self._uri}/rows"
        with translated():
            spark.sql(f"CREATE TABLE delta.`{literal(uri)}` (user_id bigint) USING delta")
            log = TableLog(spark, uri)
            staged = log.write(spark.range(ROWS).selectExpr("id AS user_id"))
            seen = spark.read.format("delta").load(uri).count()
            for _ in range(2):
                log.commit(staged, "probe", 1)
            rows = spark.read.format("delta").load(uri).count()
        bare = load_delta(uri, self._options).to_pyarrow_table().num_rows
        if (seen, rows, bare) != (0, ROWS, ROWS):
            return Finding(
                f"{seen} rows before the commit, {rows} after it, {bare} without Spark; {ROWS} were written",
                State.MISSING,
                "Report this with the versions above: rows were lost, or seen too early.",
            )
        return f"{ROWS} rows staged, committed once, read with Spark and without"

    def _drivers(self, spark: SparkSession) -> Finding | str:
        scheme = self.settings.warehouse_uri.partition(":")[0]
        key = f"spark.delta.logStore.{scheme}.impl"
        given = spark.conf.get(key, "")
        if given:
            return f"{key} is {given}"
        return Finding(
            "Spark writes Delta's log on S3 in a way that is safe for one driver at a time",
            State.WARNING,
            f"Let one job at a time write to a dataset, or set {key} to a log store for several drivers.",
        )

    def close(self) -> list[str]:
        """See ``FormatProbes``."""
        left = []
        try:
            delete_folder(self._uri, self.settings.catalog.properties)
        except Exception as error:  # noqa: BLE001 - what stays is told, whatever keeps it there
            left.append(f"the folder {self._uri} ({type(error).__name__})")
        self._folders.remove()
        return left


def _once() -> Any:
    """Marks a commit of which one can be made: as claims of versions are."""
    from deltalake import CommitProperties, Transaction

    return CommitProperties(app_transactions=[Transaction("probe", 1)], max_commit_retries=30)


def jars_needed(settings: Settings) -> list[Jar]:
    """Delta's own, and what Spark needs for its store; nothing where the settings name another format."""
    if settings.format != "delta":
        return []
    jars = [Jar(DELTA_PACKAGE, "io.delta.sql.DeltaSparkSessionExtension", "Delta")]
    return [*jars, _HADOOP_S3] if settings.warehouse_uri.startswith(_S3) else jars


def open_probes(settings: Settings, probes: Probes, *, joined: bool) -> FormatProbes:
    """The probes of a configuration; see ``FormatProbes``."""
    return DeltaProbes(settings, probes)
