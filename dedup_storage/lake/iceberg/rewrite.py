"""One table without some users: its files that hold their rows, written anew without these rows.

Versions share files. What was written anew for one snapshot is used again for every other in which the same files, with
the same deletion vectors, held rows of the users.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.engine.stores import use_store
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.iceberg.branch import RunBranch, load_java
from dedup_storage.lake.iceberg.files import (
    all_partition_fields,
    buckets_in,
    files_by_segment,
    partition_fields,
    segments_sql,
)
from dedup_storage.lake.iceberg.manifests import BOUND_LENGTH
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.lake.runs import Run
from dedup_storage.lake.segments import Segment
from dedup_storage.lake.stored_rows import Seen, StoredRows
from dedup_storage.layout import DatasetSpec, TableRole, TableSpec
from dedup_storage.schema import DateGrain
from dedup_storage.spark.rows import buckets_of, text_frame

__all__ = ["TableRewriter", "Touched"]

# Segment -> its data files that hold rows of the users, each with its deletion vector.
Touched = Mapping[Segment, frozenset[tuple[str, str]]]


class TableRewriter:
    """Rewrites snapshots of one table.

    Args:
        spark, tables, settings: As for ``Backfill``.
        meta: The dataset's tables.
        table: Its name.
        users: The users, one column with the user column's name.
        run: Attempt that the new files are staged under.
    """

    def __init__(
        self,
        spark: SparkSession,
        tables: TableFormat,
        settings: Settings,
        meta: DatasetMetadata,
        table: str,
        users: DataFrame,
        run: Run,
    ) -> None:
        self.tables, self.settings, self.table, self.run = tables, settings, table, run
        self.spark, self.session = spark, run_session(spark)
        use_store(self.session, meta.tables[table].io.properties)
        self._fields = partition_fields(meta.tables[table])
        self._specs = all_partition_fields(meta.tables[table])
        dated = any(transform in ("identity", "month") for _, transform in self._fields)
        # Rows set aside lie in segments without dates.
        undated = meta.spec.model_copy(update={"date_grain": DateGrain.NONE})
        spec = meta.spec.partitioned(table) if dated else undated
        # Stored users of a sample lie in the buckets that the dataset had when they were stored first.
        own = buckets_in(self._fields) or spec.buckets
        self.spec: DatasetSpec = spec.model_copy(update={"buckets": own})
        self.dataset = meta.spec.name
        columns = tuple(field.name for field in meta.tables[table].schema().fields)
        self._spec_of_table = TableSpec(role=TableRole.FEATURES, name=table, columns=columns, sort_columns=())
        stored = spark.read.table(f"{settings.catalog.name}.{self.dataset}.{table}").schema
        user = meta.spec.schema_.user
        self._types = {field.name: field.dataType for field in stored.fields}
        self.users = move_to(self.session, users).select(F.col(user).cast(self._types[user])).distinct()
        self._stored = StoredRows(self.session, self.users)
        self._holds: dict[str, bool] = {}
        self._touched: dict[int, Touched] = {}
        self._written: dict[tuple[Segment, frozenset[tuple[str, str]]], list[Any]] = {}

    @property
    def _catalog(self) -> str:
        return self.settings.catalog.name

    @cached_property
    def _buckets(self) -> list[int]:
        """Buckets of the users; the others are not looked into."""
        return buckets_of(self.users, self.tables.bucket(self.spec))

    def rows(self, snapshot_id: int) -> DataFrame:
        """All rows of a snapshot."""
        return move_to(self.session, self.tables.read(self.dataset, self.table, snapshot_id))

    def count(self, snapshot_id: int) -> int:
        """Rows of the users in a snapshot."""
        return self._theirs(snapshot_id).count()

    def _theirs(self, snapshot_id: int) -> DataFrame:
        user = self.spec.schema_.user
        inside = self.tables.in_buckets(self.spec, self._buckets)
        rows = self.rows(snapshot_id).filter(inside).select(user, "_file")
        return rows.join(F.broadcast(self.users), user, "left_semi")

    def touched(self, snapshot_id: int) -> Touched:
        """Files of a snapshot that hold rows of the users; a snapshot never changes, and is looked into once."""
        if snapshot_id not in self._touched:
            self._touched[snapshot_id] = self._look_into(snapshot_id)
        return self._touched[snapshot_id]

    def _look_into(self, snapshot_id: int) -> Touched:
        files = self.session.read.option("versionAsOf", str(snapshot_id)).table(
            f"{self._catalog}.{self.dataset}.{self.table}.files"
        )
        hit = self._theirs(snapshot_id).select("_file").distinct().withColumn("hit", F.lit(True))
        vectors = files.filter("content <> 0").select(
            F.col("referenced_data_file").alias("of"),
            F.concat_ws("@", "file_path", F.col("content_offset").cast("string")).alias("vector"),
        )
        listed = files_by_segment(files, self._specs).filter("content = 0").select("date", "bucket", "file_path")
        found = (
            listed.join(F.broadcast(hit), F.col("file_path") == F.col("_file"), "left")
            .join(F.broadcast(vectors), F.col("file_path") == F.col("of"), "left")
            .filter("hit or vector is not null")
            .filter(F.col("bucket").isin(self._buckets))
            .select("date", "bucket", "file_path", F.coalesce("vector", F.lit("")).alias("vector"), "hit")
        )
        # At most the files of the users' buckets, which are listed in any case to be exchanged.
        rows = found.collect()
        # A deletion vector hides rows, and leaves them in their file.
        hidden = self._hidden([row["file_path"] for row in rows if not row["hit"]])
        touched: dict[Segment, set[tuple[str, str]]] = {}
        for row in rows:
            if row["hit"] or row["file_path"] in hidden:
                touched.setdefault(Segment(row["date"], row["bucket"]), set()).add((row["file_path"], row["vector"]))
        return {segment: frozenset(files) for segment, files in touched.items()}

    def _hidden(self, paths: Sequence[str]) -> set[str]:
        """Those of the data files that hold rows of the users, hidden ones included."""
        unknown = [p for p in paths if p not in self._holds]
        if unknown:
            names = self._stored.holding(*unknown)
            self._holds |= {path: path.rpartition("/")[2] in names for path in unknown}
        return {path for path in paths if self._holds[path]}

    def write(self, snapshot_id: int, touched: Touched) -> None:
        """Write anew what was not written yet of a snapshot's touched files, where nobody sees it."""
        needed = {s: files for s, files in touched.items() if (s, files) not in self._written}
        if not needed:
            return
        user = self.spec.schema_.user
        paths = (path for files in needed.values() for path, _ in files)
        listed = F.broadcast(text_frame(self.session, "_path", paths))
        rows = self.rows(snapshot_id).filter(F.expr(segments_sql(self.spec, self._catalog, needed)))
        columns = self._spec_of_table.columns
        # A snapshot of before a promotion has not all columns that the table has by now.
        there = [F.col(c) if c in rows.columns else F.lit(None).cast(self._types[c]).alias(c) for c in columns]
        rows = rows.select(*there, "_file").join(listed, F.col("_file") == F.col("_path"), "left_semi")
        rows = rows.join(F.broadcast(self.users), user, "left_anti").select(*columns)
        staged = self.tables.stage(self.spec, self._spec_of_table, move_to(run_session(self.session), rows), self.run)
        table = load_java(self.spark, self.settings, self.dataset, self.table)
        by_segment: dict[Segment, list[Any]] = {segment: [] for segment in needed}
        for file in table.added_files(staged.snapshot_id):
            by_segment[_segment_of(table.partition_path(file), self._fields)].append(file)
        for segment, files in needed.items():
            self._written[segment, files] = by_segment[segment]

    def swap(self, branch: RunBranch, touched: Touched, facts: Mapping[str, str]) -> None:
        """Put the files written anew in place of the touched ones on a branch, in one commit."""
        branch.exchange(*self._exchanged(touched), facts)

    def lay_anew(self, branch: RunBranch, snapshot_id: int, touched: Touched, facts: Mapping[str, str]) -> None:
        """Make a snapshot anew on a branch, where nothing tells of the touched files, nor of any taken out before."""
        branch.open(snapshot_id)
        table = load_java(self.spark, self.settings, self.dataset, self.table)
        added, removed = self._exchanged(touched)
        table.lay_anew(branch.name, snapshot_id, added, set(removed), facts)

    def _exchanged(self, touched: Touched) -> tuple[list[Any], list[str]]:
        """New files, and places of those they replace."""
        added = [file for key in touched.items() for file in self._written[key]]
        return added, [path for files in touched.values() for path, _ in files]

    def present(self, location: str) -> DataFrame:
        """Those of the users, as texts, that have rows in the Parquet files below a place."""
        return self._stored.present(location)

    def look(self, location: str, outside: Iterable[str]) -> Seen:
        """Look for the users in the Parquet files below a place, named or not, and in files elsewhere."""
        return self._stored.look(location, *outside)

    def count_bounds(self, texts: Collection[str], location: str) -> int:
        """How many of some least and greatest values of files below a place tell of the users."""
        if not texts:
            return 0
        return self._stored.count_bounds(text_frame(self.session, "bound", texts), BOUND_LENGTH, location)


def _segment_of(path: str, fields: Sequence[tuple[str, str]]) -> Segment:
    """The segment of a partition's path, such as ``event_date=2024-01-31/user_id_bucket=3``."""
    date, bucket = "", 0
    for part, (_, transform) in zip(path.split("/"), fields, strict=True):
        value = part.partition("=")[2]
        if transform.startswith("bucket"):
            bucket = int(value)
        elif value != "null":
            date = value
    return Segment(date, bucket)
