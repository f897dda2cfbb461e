"""Delta through Spark: tables, staged writes, reads of any version."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.errors import DatasetExistsError, InputError
from dedup_storage.faults import reached
from dedup_storage.lake.branch import branch_name, branch_names
from dedup_storage.lake.delta.adopt import adopt_log, clear_left, clear_stopped
from dedup_storage.lake.delta.branch import DeltaBranch, branches_of
from dedup_storage.lake.delta.columns import add_logged, add_promoted, set_encodings
from dedup_storage.lake.delta.erasure import DeltaErasure
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.layout import (
    bucket_column,
    bucket_expression,
    file_properties,
    generated_columns,
    not_null,
    partition_columns,
)
from dedup_storage.lake.delta.log import DELTA_WRITES, TableLog
from dedup_storage.lake.delta.metadata import DeltaLake, DeltaMetadata
from dedup_storage.lake.delta.open import load_delta, refuse_unreadable
from dedup_storage.lake.delta.proof import delta_damages, delta_files
from dedup_storage.lake.delta.publish import MOVED, DeltaPublisher
from dedup_storage.lake.delta.samples import DeltaSamples
from dedup_storage.lake.delta.segments import file_of_row, files_frame, segments_condition
from dedup_storage.lake.delta.stage import StagedFiles
from dedup_storage.lake.delta.status import delta_status
from dedup_storage.lake.delta.upkeep import DeltaUpkeep
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.facts import BUCKETS, Facts
from dedup_storage.lake.folders import all_there, child_folders, delete_folder
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import TableFormat, require_segments, taking_in
from dedup_storage.lake.publishing import require_buckets
from dedup_storage.lake.runs import Run, Staged, staged_gone
from dedup_storage.lake.segments import Segment
from dedup_storage.lake.sql import listed, quoted
from dedup_storage.lake.status import PublicationStatus
from dedup_storage.lake.upkeep import Policy
from dedup_storage.lake.wholeness import Damage, StoredFiles
from dedup_storage.layout import DatasetSpec, TableRole, TableSpec
from dedup_storage.schema import DateGrain, LogSchema
from dedup_storage.table_properties import Dictionaries, describing_properties, feature_lists, made_for

__all__ = ["DELTA_WRITES", "DeltaFormat", "open_format"]


class DeltaFormat(DeltaSamples):
    """The ``TableFormat`` of Delta.

    Args:
        spark: Session with Delta's extension and catalog.
        settings: Where the warehouse is.
    """

    name, marks_rows = "delta", False

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.spark, self.settings = spark, settings
        self.lake = DeltaLake(settings)
        self._publisher = DeltaPublisher(spark, self.lake)

    def partitions_of(self, kind: str, place: str, schema: LogSchema) -> tuple[DateGrain, int]:
        """Date grain of a log that is to be adopted; Delta has no buckets of its own."""
        if kind != "delta":
            return DateGrain.NONE, 1
        loaded = load_delta(place, self.lake.options)
        refuse_unreadable(loaded, place)
        partitions = loaded.metadata().partition_columns
        if partitions not in ([], ["event_date"]):
            raise InputError(
                f"the table {place} is partitioned by {', '.join(partitions)}",
                expected="event_date, or no partitions",
                fix="Write it into a dataset: dedup-storage write.",
            )
        return (DateGrain.DAY if partitions else DateGrain.NONE), 1

    def lies_at(self, dataset: str, place: str) -> str:
        """As it is named: what is adopted is never moved."""
        return place

    def adopt(self, spec: DatasetSpec, kind: str, place: str, columns: Mapping[str, str], run: Run) -> None:
        """Make a log that is there version 1 of a dataset: a table that names its files where they lie."""
        adopt_log(self.spark, self.lake, spec, kind, place, columns, run)

    def require(self, what: str, spec: DatasetSpec | None = None) -> None:
        """Delta has every operation; a log that lies as it was found has no segments to work on.

        Raises:
            UsageError: the dataset was adopted.
        """
        require_segments(what, spec)

    def find(self, dataset: str) -> DeltaMetadata | None:
        """The dataset's tables, or ``None`` when there is no such dataset."""
        return self.lake.find(dataset)

    def metadata(self, dataset: str) -> DeltaMetadata:
        """The dataset's tables now."""
        return self.lake.load(dataset)

    def settle(self, spec: DatasetSpec) -> DeltaMetadata:
        """Finish a publication that another run decided and did not complete; the tables after that."""
        return self._publisher.settled(spec)

    def take_in(self, spec: DatasetSpec, settled: DatasetMetadata | None = None) -> DatasetMetadata:
        """Publish what other tools' compaction left as a version of its own, where there is such."""
        meta = self._publisher.settled(spec) if settled is None else cast(DeltaMetadata, settled)
        moved = self._publisher.compacted(meta)
        if not moved:
            return meta
        run = taking_in(meta.current)
        facts = {**run.facts, MOVED: json.dumps(moved)}
        self._publisher.publish(spec, replace(run, segments=None, facts=facts), (), None)
        return self.lake.load(spec.name)

    def state(self, table: str) -> int | None:
        """The newest version of any Delta table of the warehouse that changed its rows."""
        return self.lake.state(table)

    def bucket(self, spec: DatasetSpec) -> Column:
        """The user bucket of a row."""
        return F.expr(bucket_expression(spec))

    def create(
        self, spec: DatasetSpec, columns: Mapping[str, str], *, dictionaries: Dictionaries | None = None
    ) -> None:
        """Create a dataset's tables, anchor last, so that a half-created dataset does not exist.

        Raises:
            DatasetExistsError: the folder holds tables of another format.
        """
        clear_stopped(self.lake, spec)
        root = self.lake.uri(spec.name)
        others = [n for n in child_folders(root, self.settings.catalog.properties) if n[:1] not in "_."]
        foreign = [n for n in others if not self.lake.is_table(f"{root}/{n}")]
        if foreign:
            raise DatasetExistsError(
                f"the folder of dataset {spec.name} holds a table {foreign[0]} that is no Delta table",
                fix="Choose another name.",
            )
        if self.lake.find(spec.name) is None:
            clear_left(self.lake, spec, others, made_for(spec, columns))
        self.lake.log(spec.name).create()
        for table in reversed(spec.tables):
            self.create_table(spec, table, columns, dictionaries=(dictionaries or {}).get(table.name, ()))
            reached(f"create:{table.name}")

    def drop(self, spec: DatasetSpec) -> None:
        """Remove a dataset's folder."""
        delete_folder(self.lake.uri(spec.name), self.settings.catalog.properties)

    def create_table(
        self, spec: DatasetSpec, table: TableSpec, columns: Mapping[str, str], *, dictionaries: Collection[str] = ()
    ) -> None:
        """Create one table if it is not there, with its partitions and file settings."""
        properties = {
            **file_properties(spec, table, feature_lists(table, columns), dictionaries),
            **describing_properties(spec, table, columns),
        }
        types, spec = spec.types_of(table.name, columns), spec.partitioned(table.name)
        needed = not_null(spec, table)
        fields = [f"{quoted(c)} {types[c]}" + (" NOT NULL" if c in needed else "") for c in table.columns]
        made = generated_columns(spec)
        fields += [f"{quoted(c)} {kind} GENERATED ALWAYS AS ({sql})" for c, (kind, sql) in made.items()]
        partitions = ", ".join(map(quoted, partition_columns(spec)))
        self.spark.sql(
            f"CREATE TABLE IF NOT EXISTS {self._path(spec.name, table.name)} ({', '.join(fields)}) USING delta "
            f"PARTITIONED BY ({partitions}) TBLPROPERTIES ({listed(properties)})"
        )

    def _path(self, dataset: str, table: str) -> str:
        return f"delta.`{self.lake.uri(dataset, table).replace('`', '``')}`"

    def add_columns(self, spec: DatasetSpec, table: str, columns: Mapping[str, str]) -> None:
        """Add columns that feature groups are promoted to; those that are there with the same type stay."""
        add_promoted(self.spark, self.lake.ref(spec.name, table), columns)

    def set_encodings(self, dataset: str, table: str, properties: Mapping[str, str]) -> None:
        """Set how a table's files are encoded from now on."""
        set_encodings(self.spark, self.lake.ref(dataset, table), properties)

    def extend(
        self, spec: DatasetSpec, table: TableSpec, columns: Mapping[str, str], *, dictionaries: Collection[str] = ()
    ) -> None:
        """Add columns of the log to a table; those that are there with the same type stay."""
        add_logged(self.spark, self.lake.ref(spec.name, table.name), spec, table, columns, dictionaries)

    def stage(
        self, spec: DatasetSpec, table: TableSpec, frame: DataFrame, run: Run, *, presorted: bool = False
    ) -> Staged:
        """Write rows into files that no version of the table names, described beside the tables."""
        if frame.sparkSession is self.spark:
            frame = move_to(run_session(self.spark), frame)
        session = frame.sparkSession
        for key, value in DELTA_WRITES.items():
            session.conf.set(key, value)
        spec = _own(spec, table)
        anew = self._generated_anew(spec, table.name, run)
        made = {name: F.expr(sql).cast(kind) for name, (kind, sql) in generated_columns(spec).items()}
        rows = frame.select(*table.columns).withColumns(made)
        partitions = partition_columns(spec)
        if not presorted:
            rows = rows.hint("rebalance", *partitions)
        rows = rows.sortWithinPartitions(*dict.fromkeys((*partitions, *table.sort_columns)))
        log = TableLog(session, self.lake.uri(spec.name, table.name))
        metadata = None if anew is None else next(iter(log.generated_anew(anew)), None)
        actions = log.write(rows, metadata)
        staged = StagedFiles(
            table=table.name,
            actions=tuple(actions),
            replaced=run.replaced if run.replaces(table.name) else None,
            buckets=run.buckets,
            facts=run.table_facts.get(table.name),
            generated=anew,
        )
        return self._staged(spec, staged, run)

    def _generated_anew(self, spec: DatasetSpec, table: str, run: Run) -> dict[str, str] | None:
        """The generated columns of a table that a run gives another number of buckets; ``None`` where they stay.

        A table that today's version does not have, and that was made when there were others, gets the dataset's.

        Raises:
            ConflictError: the dataset got another number of buckets since the run began.
        """
        ref, column = self.lake.ref(spec.name, table), bucket_column(spec)
        buckets = ref.buckets(column)
        if buckets in (None, spec.buckets):
            return None
        anew = {column: bucket_expression(spec)}
        if BUCKETS in run.table_facts.get(table, {}):
            return anew
        meta = self.lake.load(spec.name)
        require_buckets(meta, spec, buckets)
        if not meta.current or table not in meta.snapshots(meta.current):
            log = self._publisher.log(spec.name, table)
            for metadata in log.generated_anew(anew):
                log.set_metadata(metadata)
        return None

    def _staged(self, spec: DatasetSpec, staged: StagedFiles, run: Run) -> Staged:
        self._publisher.store(spec.name).put(run.attempt, staged)
        return Staged(
            table=staged.table,
            snapshot_id=-1,
            parent_id=None,
            rows=staged.rows,
            bytes=staged.size_bytes,
            files=len(staged.actions),
            attempt=run.attempt,
        )

    def stage_nothing(self, spec: DatasetSpec, table: TableSpec, run: Run) -> Staged:
        """Stage no file: a version's anchor where none of its rows change, or new facts of a table."""
        return self._staged(spec, StagedFiles(table.name, facts=run.table_facts.get(table.name)), run)

    def staged_rows(self, spec: DatasetSpec, staged: Staged, run: Run) -> DataFrame:
        """The rows that an attempt staged in a table, alone."""
        uri = self.lake.uri(spec.name, staged.table)
        rows = self.spark.read.format("delta").load(uri)
        found = self._publisher.store(spec.name).get(run.attempt, staged.table)
        if found is None:
            raise staged_gone(staged.table, run.run_id)
        if found.actions:
            files = [f"{uri}/{path}" for path in found.paths]
            rows = self.spark.read.schema(rows.schema).option("basePath", uri).parquet(*files)
        else:
            rows = rows.limit(0)
        return rows.drop(*generated_columns(spec))

    def holds_staged(self, spec: DatasetSpec, staged: Staged, run: Run) -> bool:
        """Whether the files that an attempt staged are described and there still."""
        found = self._publisher.store(spec.name).get(run.attempt, staged.table)
        if found is None:
            return False
        uri = self.lake.uri(spec.name, staged.table)
        return all_there(uri, found.paths, self.settings.catalog.properties)

    def branch(self, dataset: str, table: str, run_id: str) -> DeltaBranch:
        """A run's branch of one table, where it keeps its finished parts."""
        return DeltaBranch(self.spark, self.lake, dataset, table, branch_name(run_id))

    def branches(self, dataset: str, table: str) -> list[str]:
        """Names of the branches of runs that are at work on a table, or were stopped there."""
        return branches_of(self.lake, dataset, table)

    def read(self, dataset: str, table: str, snapshot_id: int, *, hidden: bool = False) -> DataFrame:
        """Rows of a Delta version, without generated columns unless ``hidden``."""
        reader = self.spark.read.format("delta").option("versionAsOf", str(snapshot_id))
        rows = reader.load(self.lake.uri(dataset, table))
        # A looked up table need not be a dataset's.
        spec = None if hidden else self.lake.spec(dataset)
        return rows if spec is None else rows.drop(*self.hidden(spec))

    def hidden(self, spec: DatasetSpec) -> Mapping[str, str]:
        """Generated columns -> the SQL expression that makes them."""
        return {name: f"CAST({sql} AS {kind})" for name, (kind, sql) in generated_columns(spec).items()}

    def inside(self, spec: DatasetSpec, segments: Iterable[Segment]) -> str:
        """A SQL condition on the partition columns that holds for the rows of the segments."""
        return segments_condition(spec, segments)

    def in_buckets(self, spec: DatasetSpec, buckets: Collection[int]) -> Column:
        """Whether a row lies in some user buckets."""
        return F.col(bucket_column(spec)).isin(list(buckets))

    def file(self, spec: DatasetSpec) -> Column:
        """The data file of a row that was just read."""
        return file_of_row(spec)

    def files(self, meta: DatasetMetadata, table: str, snapshot_id: int) -> DataFrame:
        """Files of a Delta version, from its log."""
        return files_frame(self.spark, meta.spec.partitioned(table), live_files(meta.tables[table], snapshot_id))

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
        return list(delta_damages(cast(DeltaMetadata, meta), version))

    def stored_files(self, meta: DatasetMetadata, version: int) -> list[StoredFiles]:
        """Data files of each table of a version."""
        return list(delta_files(cast(DeltaMetadata, meta), version))

    def status(self, dataset: str) -> PublicationStatus:
        """What is under way on a dataset."""
        return delta_status(self.lake, self.lake.load(dataset))

    def abandon(self, spec: DatasetSpec, version: int) -> None:
        """Give up a version that is decided and not complete, and finished parts of its run, which fit no longer."""
        run_id = self._publisher.give_up(spec, version)
        if run_id:
            self.abandon_run(spec, run_id)

    def abandon_run(self, spec: DatasetSpec, run_id: str) -> tuple[str, ...]:
        """Give up what a run has staged and its finished parts, unless its version is decided."""
        meta = self.lake.load(spec.name)
        found = self._publisher.let_go(meta, run_id)
        for name in meta.tables:
            for named in branch_names(run_id):
                branch = DeltaBranch(self.spark, self.lake, spec.name, name, named)
                if branch.exists():
                    branch.drop()
                    found.add(name)
        return tuple(sorted(found))

    def rollback(self, spec: DatasetSpec, run: Run, target: int) -> int:
        """Publish a new version with the content of an older one; gives its number."""
        facts = {"parent": str(target), "kind": "rollback"}
        return self._publisher.publish(spec, replace(run, facts={**run.facts, **facts}, dates=None), (), None)

    def pin(self, spec: DatasetSpec, version: int, label: str) -> None:
        """Keep a version through expiry; twice is once."""
        self.lake.log(spec.name).pin(version, label)

    def unpin(self, spec: DatasetSpec, version: int, label: str) -> None:
        """Let expiry have a version again."""
        self.lake.log(spec.name).unpin(version, label)

    def upkeep(self, spec: DatasetSpec, policy: Policy) -> DeltaUpkeep:
        """Maintenance; of a log that was adopted, no file outside the dataset is deleted."""
        return DeltaUpkeep(self.spark, self.lake, spec, policy)

    def erasure(self, spec: DatasetSpec, users: DataFrame, run_id: str, facts: Facts | None = None) -> DeltaErasure:
        """The erasure of some users."""
        return DeltaErasure(self.spark, self.lake, spec, users, run_id, facts or {})

    def discard(self, spec: DatasetSpec, run: Run) -> None:
        """Remove an attempt's staged data."""
        self._publisher.discard(spec, run)


def _own(spec: DatasetSpec, table: TableSpec) -> DatasetSpec:
    """The spec by which a table is partitioned: rows that were set aside need not have an event date."""
    spec = spec.partitioned(table.name)
    undated = table.role is TableRole.QUARANTINE or spec.event_date_column not in table.columns
    return spec.model_copy(update={"date_grain": DateGrain.NONE}) if undated else spec


def open_format(spark: SparkSession, settings: Settings) -> TableFormat:
    """The format in a session that knows it."""
    return DeltaFormat(spark, settings)
