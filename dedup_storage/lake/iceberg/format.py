"""Iceberg through Spark: tables, staged writes, reads of any snapshot."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.readwriter import DataFrameWriterV2

from dedup_storage.config import Settings
from dedup_storage.faults import reached
from dedup_storage.lake.branch import BRANCH_PREFIX, branch_name, branch_names
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.facts import Facts
from dedup_storage.lake.history import DatasetMetadata, version_expired
from dedup_storage.lake.iceberg.adopt import adopt_log, table_partitions
from dedup_storage.lake.iceberg.branch import RunBranch, commit_or_find
from dedup_storage.lake.iceberg.columns import add_logged, add_promoted, set_properties
from dedup_storage.lake.iceberg.complete import compacted
from dedup_storage.lake.iceberg.erasure import IcebergErasure
from dedup_storage.lake.iceberg.files import all_partition_fields, bucket_sql, files_by_segment, segments_sql
from dedup_storage.lake.iceberg.holds import holds, pending_attempt
from dedup_storage.lake.iceberg.left import clear_left, lies_at
from dedup_storage.lake.iceberg.metadata import IcebergMetadata, Lake
from dedup_storage.lake.iceberg.proof import iceberg_damages, iceberg_files
from dedup_storage.lake.iceberg.publish import Publisher
from dedup_storage.lake.iceberg.references import begin_namespace
from dedup_storage.lake.iceberg.samples import IcebergSamples
from dedup_storage.lake.iceberg.snapshots import snapshot_summary, tags
from dedup_storage.lake.iceberg.stage import STAGING, Partitions
from dedup_storage.lake.iceberg.status import iceberg_status
from dedup_storage.lake.iceberg.upkeep import IcebergUpkeep
from dedup_storage.lake.protocol import TableFormat, require_segments, taking_in
from dedup_storage.lake.ranges import in_ranges
from dedup_storage.lake.runs import Run, Staged
from dedup_storage.lake.segments import Segment
from dedup_storage.lake.sql import listed, located, quoted
from dedup_storage.lake.status import PublicationStatus
from dedup_storage.lake.upkeep import Policy
from dedup_storage.lake.wholeness import Damage, StoredFiles
from dedup_storage.layout import DatasetSpec, TableSpec, version_tag
from dedup_storage.schema import DateGrain, LogSchema, check_name
from dedup_storage.table_properties import (
    Dictionaries,
    describing_properties,
    encoding_properties,
    feature_lists,
    made_for,
)

__all__ = ["TABLE_PROPERTIES", "IcebergFormat", "open_format"]

TABLE_PROPERTIES = {
    "format-version": "3",
    STAGING: "true",
    "write.object-storage.enabled": "false",
    "commit.retry.num-retries": "20",
    "commit.retry.min-wait-ms": "50",
    "write.delete.mode": "merge-on-read",
    "write.update.mode": "merge-on-read",
    "write.merge.mode": "merge-on-read",
    # A segment is one task's work: one sorted run of files instead of several overlapping ones.
    "write.spark.advisory-partition-size-bytes": str(1024**3),
}


class IcebergFormat(IcebergSamples):
    """The ``TableFormat`` of Iceberg.

    Args:
        spark: Session with the catalog defined.
        settings: Settings of that catalog.
    """

    name, marks_rows = "iceberg", True

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.spark, self.settings = spark, settings
        self.lake = Lake(settings)
        self._publisher = Publisher(spark, settings, self.lake)

    def require(self, what: str, spec: DatasetSpec | None = None) -> None:
        """Iceberg has every operation; a log that lies as it was found has no segments to work on.

        Raises:
            UsageError: the dataset was adopted.
        """
        require_segments(what, spec)

    def partitions_of(self, kind: str, place: str, schema: LogSchema) -> tuple[DateGrain, int]:
        """Date grain and user buckets of a log that is to be adopted."""
        if kind != "iceberg":
            return DateGrain.NONE, 1
        return table_partitions(self.lake.catalog.load_table(place), place, schema)

    def adopt(self, spec: DatasetSpec, kind: str, place: str, columns: Mapping[str, str], run: Run) -> None:
        """Make a log that is there version 1 of a dataset."""
        begin_namespace(self.spark, self.settings, self.lake.catalog, spec.name)
        adopt_log(self.spark, self.lake, spec, kind, place, columns, run)

    def lies_at(self, dataset: str, place: str) -> str:
        """Where a table that is to be adopted lies: one that a stopped adoption has moved is found again."""
        return lies_at(self.lake, dataset, place)

    def find(self, dataset: str) -> DatasetMetadata | None:
        """The dataset's tables, or ``None`` when there is no such dataset."""
        return self.lake.find(dataset)

    def bucket(self, spec: DatasetSpec) -> Column:
        """Iceberg's bucket of the row's user."""
        function = f"{check_name(self.settings.catalog.name, 'catalog name')}.system.bucket"
        return F.call_function(function, F.lit(spec.buckets), F.col(spec.schema_.user))

    def metadata(self, dataset: str) -> DatasetMetadata:
        """The dataset's tables now."""
        return self.lake.load(dataset)

    def state(self, table: str) -> int | None:
        """The newest snapshot of any table of the catalog that changed its rows."""
        return self.lake.state(table)

    def settle(self, spec: DatasetSpec) -> DatasetMetadata:
        """Finish a publication that another run decided and did not complete; the tables after that."""
        return self._publisher.settled(spec)

    def take_in(self, spec: DatasetSpec, settled: DatasetMetadata | None = None) -> DatasetMetadata:
        """Publish what other tools' compaction left as a version of its own, where there is such."""
        meta = self._publisher.settled(spec) if settled is None else cast(IcebergMetadata, settled)
        moved = compacted(meta)
        if not moved:
            return meta
        run = taking_in(meta.current)
        self.stage_nothing(spec, spec.anchor, run)
        self._publisher.staging.hold_back(spec, run.attempt, moved)
        self._publisher.publish(spec, run, [spec.anchor.name], None)
        return self.lake.load(spec.name)

    def _name(self, dataset: str, table: str) -> str:
        return quoted(self.settings.catalog.name, dataset, table)

    def create(
        self, spec: DatasetSpec, columns: Mapping[str, str], *, dictionaries: Dictionaries | None = None
    ) -> None:
        """Create a dataset's tables, anchor last, so that a half-created dataset does not exist."""
        begin_namespace(self.spark, self.settings, self.lake.catalog, spec.name)
        clear_left(self.spark, self.lake, spec, made_for(spec, columns))
        for table in reversed(spec.tables):
            self.create_table(spec, table, columns, dictionaries=(dictionaries or {}).get(table.name, ()))
            reached(f"create:{table.name}")

    def drop(self, spec: DatasetSpec) -> None:
        """Remove a dataset's data tables, anchor first, so that there is no dataset from the first step on."""
        for table in spec.tables:
            self.spark.sql(f"DROP TABLE IF EXISTS {self._name(spec.name, table.name)} PURGE")
        if not self.lake.catalog.list_tables(spec.name):
            self.spark.sql(f"DROP NAMESPACE IF EXISTS {quoted(self.settings.catalog.name, spec.name)}")

    def create_table(
        self, spec: DatasetSpec, table: TableSpec, columns: Mapping[str, str], *, dictionaries: Collection[str] = ()
    ) -> None:
        """Create one table if it is not there, with its partitions, order and encodings."""
        properties = {
            **TABLE_PROPERTIES,
            **encoding_properties(spec, table, feature_lists(table, columns), dictionaries),
            **describing_properties(spec, table, columns),
        }
        types = spec.types_of(table.name, columns)
        fields = ", ".join(f"{quoted(c)} {types[c]}" for c in table.columns)
        partitions = ", ".join(self._partitions(spec.partitioned(table.name)))
        name = self._name(spec.name, table.name)
        self.spark.sql(
            f"CREATE TABLE IF NOT EXISTS {name} ({fields}) USING iceberg "
            f"PARTITIONED BY ({partitions}){located(self.lake.place_of_new(spec.name, table.name))} "
            f"TBLPROPERTIES ({listed(properties)})"
        )
        order = ", ".join(quoted(c) for c in table.sort_columns)
        self.spark.sql(f"ALTER TABLE {name} WRITE DISTRIBUTED BY PARTITION LOCALLY ORDERED BY {order}")

    def add_columns(self, spec: DatasetSpec, table: str, columns: Mapping[str, str]) -> None:
        """Add columns that feature groups are promoted to; those that are there with the same type stay."""
        add_promoted(self.spark, self.lake, spec, table, columns)

    def set_encodings(self, dataset: str, table: str, properties: Mapping[str, str]) -> None:
        """Set how a table's files are encoded from now on."""
        set_properties(self.spark, self.lake, dataset, table, properties)

    def extend(
        self, spec: DatasetSpec, table: TableSpec, columns: Mapping[str, str], *, dictionaries: Collection[str] = ()
    ) -> None:
        """Add columns of the log to a table; one of another type, which a refused write left, is taken away first."""
        add_logged(self.spark, self.lake, spec, table, columns, dictionaries)

    def _partitions(self, spec: DatasetSpec) -> list[str]:
        bucket = f"bucket({spec.buckets}, {quoted(spec.schema_.user)})"
        if spec.event_date_column is None or spec.date_grain is DateGrain.NONE:
            return [bucket]
        date = quoted(spec.event_date_column)
        return [date if spec.date_grain is DateGrain.DAY else f"months({date})", bucket]

    def stage(
        self, spec: DatasetSpec, table: TableSpec, frame: DataFrame, run: Run, *, presorted: bool = False
    ) -> Staged:
        """Write rows that nobody sees yet: a snapshot that no branch contains, named by the attempt.

        ``spark.wap.id`` is a session setting, so the frame is written in a session of its own unless it has one.
        """
        if frame.sparkSession is self.spark:
            frame = move_to(run_session(self.spark), frame)
        anew = self._publisher.staging.begin(spec, table.name, run)
        frame = frame.select(*table.columns)
        if anew is not None:
            frame, presorted = self._in_segments(spec, anew, table, frame), True
        frame.sparkSession.conf.set("spark.wap.id", run.attempt)
        writer = frame.writeTo(self._name(spec.name, table.name))
        if anew is not None:
            writer = writer.option("output-spec-id", str(anew.number))
        for key, value in self._publisher.staging.facts(spec, table.name, run).items():
            writer = writer.option(f"snapshot-property.{key}", value)
        if presorted:
            writer = writer.option("use-table-distribution-and-ordering", "false").option("fanout-enabled", "false")
        staging = self._publisher.staging
        inside = run.buckets is not None and run.replaces(table.name)

        commit_or_find(
            lambda: self._commit(spec, writer, run if run.replaces(table.name) and not inside else None),
            lambda: staging.count(spec, table.name, run.attempt) == 1,
        )
        if not run.part:
            staging.hold(spec, table.name, run.attempt)
        if inside:
            # An append that is staged again, as a replacement.
            staging.replace_segments(spec, table.name, run)
        return self.staged(spec, table.name, run)

    def _in_segments(self, spec: DatasetSpec, anew: Partitions, table: TableSpec, frame: DataFrame) -> DataFrame:
        """Rows distributed and sorted by partitions that are not the table's own yet, by which Spark would do it."""
        made = []
        for source, transform in anew.fields:
            column = F.col(quoted(source))
            if transform.startswith("bucket["):
                column = self.bucket(spec)
            elif transform == "month":
                column = F.date_format(column, "yyyy-MM")
            made.append(column)
        return frame.repartition(*made).sortWithinPartitions(*made, *(quoted(c) for c in table.sort_columns))

    def _commit(self, spec: DatasetSpec, writer: DataFrameWriterV2, replacing: Run | None) -> None:
        if replacing is None or replacing.replaced is None:
            writer.append()
        else:
            writer.overwrite(in_ranges(str(spec.event_date_column), replacing.replaced))

    def stage_nothing(self, spec: DatasetSpec, table: TableSpec, run: Run) -> Staged:
        """Stage a snapshot without rows: a version's anchor where none of its rows change, or new facts of a table."""
        run = replace(run, replaced=None)
        self._publisher.staging.stage_nothing(spec, table.name, run)
        return self.staged(spec, table.name, run)

    def staged(self, spec: DatasetSpec, table: str, run: Run) -> Staged:
        """What an attempt staged in one table."""
        meta = self.lake.catalog.load_table((spec.name, table))
        snapshot = self._publisher.staging.find_staged(meta, run.attempt, held_only=not run.part)
        summary = snapshot_summary(snapshot)
        return Staged(
            table=table,
            snapshot_id=snapshot.snapshot_id,
            parent_id=snapshot.parent_snapshot_id,
            rows=int(summary.get("added-records", 0)),
            bytes=int(summary.get("added-files-size", 0)),
            files=int(summary.get("added-data-files", 0)),
            attempt=run.attempt,
        )

    def staged_rows(self, spec: DatasetSpec, staged: Staged, run: Run) -> DataFrame:
        """The rows an attempt staged, alone; of a replacement the whole table as it would be."""
        if run.replaces(staged.table) or staged.parent_id is None:
            return self.read(spec.name, staged.table, staged.snapshot_id)
        reader = self.spark.read.option("start-snapshot-id", staged.parent_id)
        return reader.option("end-snapshot-id", staged.snapshot_id).table(self._plain(spec.name, staged.table))

    def holds_staged(self, spec: DatasetSpec, staged: Staged, run: Run) -> bool:
        """Whether the snapshot that an attempt staged is there still."""
        return self.lake.catalog.load_table((spec.name, staged.table)).snapshot_by_id(staged.snapshot_id) is not None

    def branch(self, dataset: str, table: str, run_id: str) -> RunBranch:
        """A run's branch of one table, where it keeps its finished parts."""
        return RunBranch(self.spark, self.settings, self.lake, dataset, table, branch_name(run_id))

    def branches(self, dataset: str, table: str) -> list[str]:
        """Names of the branches of runs that are at work on a table, or were stopped there."""
        return [n for n in tags(self.lake.catalog.load_table((dataset, table))) if n.startswith(BRANCH_PREFIX)]

    def read(self, dataset: str, table: str, snapshot_id: int, *, hidden: bool = False) -> DataFrame:
        """Rows of a snapshot; no column is hidden."""
        return self.spark.read.option("versionAsOf", str(snapshot_id)).table(self._plain(dataset, table))

    def _plain(self, dataset: str, table: str) -> str:
        return f"{self.settings.catalog.name}.{dataset}.{table}"

    def hidden(self, spec: DatasetSpec) -> Mapping[str, str]:
        """None: Iceberg's partitions are functions of the rows' columns."""
        return {}

    def inside(self, spec: DatasetSpec, segments: Iterable[Segment]) -> str:
        """A SQL condition that holds for the rows of the segments."""
        return segments_sql(spec, self.settings.catalog.name, segments)

    def in_buckets(self, spec: DatasetSpec, buckets: Collection[int]) -> Column:
        """Whether a row lies in some user buckets."""
        return F.expr(bucket_sql(spec, self.settings.catalog.name)).isin(list(buckets))

    def file(self, spec: DatasetSpec) -> Column:
        """The data file of a row that was just read."""
        return F.col("_file")

    def files(self, meta: DatasetMetadata, table: str, snapshot_id: int) -> DataFrame:
        """Files of a snapshot, from Iceberg's ``files`` table."""
        name = f"{self.settings.catalog.name}.{meta.spec.name}.{table}.files"
        listed = self.spark.read.option("versionAsOf", str(snapshot_id)).table(name)
        return files_by_segment(listed, all_partition_fields(meta.tables[table]), bounds_of=meta.spec.schema_.user)

    def publish(
        self,
        spec: DatasetSpec,
        run: Run,
        members: Sequence[str],
        verify: Callable[[DatasetMetadata], None] | None = None,
    ) -> int:
        """Make an attempt's staged data visible in all tables at once; gives the version."""
        return self._publisher.publish(spec, run, members, verify)

    def damages(self, meta: DatasetMetadata, version: int) -> list[Damage]:
        """What is wrong with a published version by the doing of others."""
        return list(iceberg_damages(cast(IcebergMetadata, meta), version))

    def stored_files(self, meta: DatasetMetadata, version: int) -> list[StoredFiles]:
        """Data files of each table of a version."""
        return list(iceberg_files(cast(IcebergMetadata, meta), version))

    def status(self, dataset: str) -> PublicationStatus:
        """What is under way on a dataset."""
        return iceberg_status(self.lake.load(dataset))

    def abandon(self, spec: DatasetSpec, version: int) -> None:
        """Give up a version that is decided and not complete, and finished parts of its run, which fit no longer."""
        if run_id := self._publisher.give_up(spec, version):
            self.abandon_run(spec, run_id)

    def abandon_run(self, spec: DatasetSpec, run_id: str) -> tuple[str, ...]:
        """Give up what a run has staged and its finished parts, unless its version is decided."""
        meta, found = self.lake.load(spec.name), set()
        decided = pending_attempt(meta)
        for hold in holds(meta.tables):
            if hold.run_id == run_id and hold.attempt != decided:
                self._publisher.staging.drop(spec.name, hold.table, hold.tag)
                found.add(hold.table)
        for name, table in meta.tables.items():
            for named in branch_names(run_id):
                if named in tags(table):
                    RunBranch(self.spark, self.settings, self.lake, spec.name, name, named).drop()
                    found.add(name)
        return tuple(sorted(found))

    def rollback(self, spec: DatasetSpec, run: Run, target: int) -> int:
        """Publish a new version with the content of an older one; gives its number."""
        facts = {"parent": str(target), "kind": "rollback"}
        run = replace(run, facts={**run.facts, **facts}, dates=None)
        restored = self.lake.load(spec.name).snapshots(target)
        reached("rollback:looked")
        self.stage_nothing(spec, spec.anchor, run)
        self._publisher.hold_back(spec, run, restored)
        # No member: a rollback is the way out where a table, the anchor too, was changed from elsewhere.
        return self._publisher.publish(spec, run, (), None)

    def pin(self, spec: DatasetSpec, version: int, label: str) -> None:
        """Keep a version through expiry: a tag on every table, the anchor's last.

        Raises:
            VersionNotFoundError: the version expired meanwhile; nothing is pinned.
        """
        snapshots, tag = self.lake.load(spec.name).snapshots(version), f"pin-{version_tag(version)}-{label}"
        for table, snapshot_id in reversed(snapshots.items()):
            self.tag(spec.name, table, tag, snapshot_id)
        reached("pin:tagged")
        if version not in self.lake.load(spec.name).version_numbers:
            for table in snapshots:
                self.untag(spec.name, table, tag)
            raise version_expired(spec.name, version)

    def unpin(self, spec: DatasetSpec, version: int, label: str) -> None:
        """Let expiry have a version again; the anchor last, so that the label is listed until it is gone."""
        for table in reversed(self.lake.load(spec.name).snapshots(version)):
            self.untag(spec.name, table, f"pin-{version_tag(version)}-{label}")

    def tag(self, dataset: str, table: str, name: str, snapshot_id: int) -> None:
        """Name a snapshot so that expiry keeps it."""
        self._publisher.tag(dataset, table, name, snapshot_id)

    def untag(self, dataset: str, table: str, name: str) -> None:
        """Remove a snapshot's name."""
        self._publisher.untag(dataset, table, name)

    def upkeep(self, spec: DatasetSpec, policy: Policy) -> IcebergUpkeep:
        """Maintenance; the files of a log that was adopted are not the dataset's to expire."""
        require_segments("maintenance", spec)
        return IcebergUpkeep(self.spark, self, self.settings, spec, policy)

    def erasure(self, spec: DatasetSpec, users: DataFrame, run_id: str, facts: Facts | None = None) -> IcebergErasure:
        """The erasure of some users."""
        return IcebergErasure(self.spark, self, self.settings, spec, users, run_id, facts or {})

    def discard(self, spec: DatasetSpec, run: Run) -> None:
        """Remove an attempt's staged data."""
        self._publisher.discard(spec, run)


def open_format(spark: SparkSession, settings: Settings) -> TableFormat:
    """The format in a session that knows it."""
    return IcebergFormat(spark, settings)
