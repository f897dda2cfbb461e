"""Dataset: create, open, write, read, versions."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill.methods import UpkeepMethods
from dedup_storage.dataset.convert.methods import ConvertMethods
from dedup_storage.dataset.features.methods import FeatureMethods
from dedup_storage.dataset.read.frames import ReadMethods
from dedup_storage.dataset.samples.methods import SampleMethods
from dedup_storage.dataset.write.summary import WriteSummary
from dedup_storage.dataset.write.writer import Mode, OnDuplicates, OnInconstant, Writer
from dedup_storage.errors import DatasetExistsError, SchemaError, UsageError, VersionNotFoundError
from dedup_storage.lake.formats import table_format
from dedup_storage.lake.iceberg.metadata import VersionInfo
from dedup_storage.lake.protocol import Run, TableFormat
from dedup_storage.lake.runs import named_run
from dedup_storage.layout import DatasetSpec, Layout, TableRole, propose_segments
from dedup_storage.schema import DateGrain, LogSchema, check_name
from dedup_storage.sources.glance import dictionary_columns
from dedup_storage.sources.grains import detect_grains
from dedup_storage.sources.raw import RawLog
from dedup_storage.spark.errors import translated

__all__ = ["Dataset"]


class Dataset(ReadMethods, FeatureMethods, SampleMethods, UpkeepMethods, ConvertMethods):
    """One logically flat training log, stored once per request.

    Args:
        spark: Session with the catalog defined (``dedup_storage.lake.session.get_spark``).
        settings: Settings of that catalog.
        spec: The dataset's description.
        tables: The table format.

    Example:
        >>> ds = Dataset.open(spark, settings, "clicks")      # doctest: +SKIP
        >>> ds.write(RawLog.read(spark, "s3://logs/day=1", schema=ds.schema), run_id="day-1")  # doctest: +SKIP
        >>> ds.logs().count()                                 # doctest: +SKIP
    """

    def __init__(self, spark: SparkSession, settings: Settings, spec: DatasetSpec, tables: TableFormat) -> None:
        self.spark, self.settings, self.spec, self.tables = spark, settings, spec, tables

    @property
    def name(self) -> str:
        """Dataset name."""
        return self.spec.name

    @property
    def schema(self) -> LogSchema:
        """The log's schema with every column's grain declared."""
        return self.spec.schema_

    @classmethod
    def create(
        cls,
        spark: SparkSession,
        settings: Settings,
        name: str,
        schema: LogSchema,
        raw: RawLog,
        *,
        layout: Layout | str | None = None,
        date_grain: DateGrain | str | None = None,
        buckets: int | None = None,
    ) -> Dataset:
        """Create a dataset for logs like ``raw``, or open it when it is there and agrees.

        Args:
            spark: Session.
            settings: Settings.
            name: Dataset name.
            schema: Meaning of the columns; grains left open are detected from ``raw``.
            raw: A log: its columns, types and size decide what is not given.
            layout: ``split`` (default) or ``flat``.
            date_grain, buckets: Segments; from the schema, else proposed from the size of ``raw``.

        Raises:
            DatasetExistsError: it is there and differs in what was given.
            SchemaError: the schema does not fit the log.
        """
        check_name(name, "dataset name")
        form: Layout | None = _choice(Layout, layout, "layout")
        wanted = _choice(DateGrain, date_grain, "date grain") or schema.date_grain
        wanted_buckets = buckets or schema.buckets
        tables = table_format(spark, settings)
        with translated():
            found = tables.find(name)
            if found is not None:
                _agree(found.spec, form, wanted, wanted_buckets, schema)
                return cls(spark, settings, found.spec, tables)
            resolved = detect_grains(raw, schema).schema(schema)
            if wanted is None or wanted_buckets is None:
                proposed, proposed_buckets = _propose(raw, resolved)
                wanted = wanted or proposed
                wanted_buckets = wanted_buckets or proposed_buckets
            types = raw.source_types()
            spec = DatasetSpec.build(
                name, resolved, types, layout=form or Layout.SPLIT, date_grain=wanted, buckets=wanted_buckets
            )
            columns = {**types, spec.position_column: types.get(spec.position_column, "int")}
            if spec.event_date_column:
                columns.setdefault(spec.event_date_column, "date")
            tables.create(spec, columns, dictionaries=dictionary_columns(raw, resolved))
            # Another process may have created it in the same moment; the catalog's word counts.
            return cls.open(spark, settings, name)

    @classmethod
    def open(cls, spark: SparkSession, settings: Settings, name: str) -> Dataset:
        """Open a dataset by name.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
        """
        tables = table_format(spark, settings)
        return cls(spark, settings, tables.metadata(name).spec, tables)

    def write(
        self,
        raw: RawLog,
        *,
        run_id: str | None = None,
        mode: Mode | str = Mode.APPEND,
        on_inconstant: OnInconstant | str = OnInconstant.REFUSE,
        on_duplicates: OnDuplicates | str = OnDuplicates.REFUSE,
        gate: bool = True,
    ) -> WriteSummary:
        """Write a log: collapse, stage, audit, publish as one version.

        Args:
            raw: The log.
            run_id: Name of the run; a run that is published already changes nothing. Random when not given.
            mode: ``append``, or ``replace`` the log's event dates as a whole.
            on_inconstant: Requests whose request-grain columns differ: ``refuse``, keep the ``first`` row's values,
                or ``quarantine`` them.
            on_duplicates: Keys that occur twice or are in the dataset already: ``refuse`` or ``keep-one``.
            gate: Audit the staged rows before publication.

        Raises:
            InputError: the log cannot be read or breaks its contract; nothing was changed.
            QualityGateError: the gate refused; nothing was published.
            ConflictError: another run changed the same event dates first; run again.
        """
        with translated():
            writer = Writer(
                self.tables,
                self.settings,
                self.spec,
                raw,
                run_id=named_run(run_id, "write"),
                mode=Mode(_choice(Mode, mode, "mode")),
                on_inconstant=OnInconstant(_choice(OnInconstant, on_inconstant, "policy for inconstant requests")),
                on_duplicates=OnDuplicates(_choice(OnDuplicates, on_duplicates, "policy for duplicates")),
                gate=gate,
            )
            return writer.write()

    # -- versions -----------------------------------------------------------------------------------------------

    def versions(self) -> list[VersionInfo]:
        """Published versions, oldest first."""
        meta = self.metadata()
        return [meta.info(version) for version in meta.version_numbers]

    def rollback(self, version: int, run_id: str | None = None) -> VersionInfo:
        """Publish an older version's content as the newest version.

        Raises:
            VersionNotFoundError: there is no such version.
        """
        with translated():
            meta = self.tables.settle(self.spec)
            meta.resolve(version)
            run_id = named_run(run_id, "rollback")
            run = Run(run_id=run_id, job="rollback", attempt=f"{run_id}/{uuid.uuid4().hex[:12]}", base=meta.current)
            published = self.tables.rollback(self.spec, run, version)
            return self.metadata().info(published)

    def pin(self, version: int | None = None, label: str = "kept") -> dict[str, Any]:
        """Keep a version through expiry.

        Returns:
            What names the version for good, as plain values for a JSON file: dataset, version, snapshot ids.
        """
        check_name(label, "pin label")
        with translated():
            meta = self.metadata()
            version = meta.resolve(version)
            self.tables.pin(self.spec, version, label)
            return {"dataset": self.name, "version": version, "label": label, "snapshots": meta.snapshots(version)}

    def unpin(self, label: str) -> None:
        """Let expiry have a pinned version again.

        Raises:
            VersionNotFoundError: no version is pinned under that label.
        """
        check_name(label, "pin label")
        with translated():
            pinned = [info for info in self.versions() if label in info.pins]
            if not pinned:
                raise VersionNotFoundError(f"no version of {self.name} is pinned as {label}")
            for info in pinned:
                self.tables.unpin(self.spec, info.version, label)

    def check(self, version: int | None = None) -> Any:
        """Run the quality suite on a published version and its feature groups; gives the verdict.

        Rows of a group that a refresh would compute anyway are not judged.
        """
        from dedup_storage.dataset.features.verify import verify_groups
        from dedup_storage.quality import GateFacts, run_gate

        with translated():
            meta = self.metadata()
            version = meta.resolve(version)
            split = self.spec.layout is Layout.SPLIT
            verdict = run_gate(
                spec=self.spec,
                settings=self.settings,
                run_id=f"check-v{version}",
                facts=GateFacts(inconstant_requests=0 if split else None),
                requests=self._table(TableRole.REQUESTS, version) if split else None,
                impressions=self._table(TableRole.IMPRESSIONS, version) if split else None,
                logs=None if split else self._table(TableRole.LOGS, version),
            )
            about = (self.tables, self.settings, self.spec, meta, version, verdict.run_id)
            groups = list(verify_groups(*about))
            for name, found in groups:
                verdict = verdict.with_group(name, found)
            if groups:
                verdict.save(Path(verdict.docs))
            return verdict


def _choice(kind: Any, value: Any, what: str) -> Any:
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"the {what} {value} is not known", expected=" or ".join(k.value for k in kind)) from None


def _agree(
    spec: DatasetSpec, layout: Layout | None, grain: DateGrain | None, buckets: int | None, schema: LogSchema
) -> None:
    wanted = {"layout": layout, "date_grain": grain, "buckets": buckets}
    for what, value in wanted.items():
        present = getattr(spec, what)
        if value is not None and value != present:
            raise DatasetExistsError(
                f"the dataset {spec.name} exists with another {what}",
                expected=str(value),
                got=str(present),
                fix="Leave it out to write into the dataset as it is, or choose another name.",
            )
    theirs, ours = spec.schema_, schema
    for role in ("user", "request", "item", "event_time", "position", "sequences", "labels"):
        if getattr(theirs, role) != getattr(ours, role):
            raise DatasetExistsError(
                f"the dataset {spec.name} exists with another {role}",
                expected=str(getattr(ours, role)),
                got=str(getattr(theirs, role)),
                fix="Correct the schema file, or choose another name.",
            )


def _propose(raw: RawLog, schema: LogSchema) -> tuple[DateGrain, int]:
    """Segments for a log of this size and time span."""
    days = months = 0
    if schema.event_time:
        if schema.event_time not in raw.frame.columns:
            raise SchemaError(f"the event time {schema.event_time} is not a column of the request rows")
        day = F.to_date(schema.event_time)
        row = raw.frame.agg(F.countDistinct(day).alias("d"), F.countDistinct(F.trunc(day, "month")).alias("m")).first()
        if row is not None:
            days, months = int(row["d"]), int(row["m"])
    return propose_segments(raw.stored_bytes(), days, months)
