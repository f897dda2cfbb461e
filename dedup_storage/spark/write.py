"""One write: collapse, stage, audit, publish."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from enum import StrEnum

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.errors import (
    ConflictError,
    ConstancyError,
    DuplicateRowsError,
    InputError,
    SchemaError,
    UsageError,
    known_names,
)
from dedup_storage.faults import reached
from dedup_storage.layout import DatasetSpec, Layout, TableRole, TableSpec
from dedup_storage.schema import DateGrain
from dedup_storage.spark.collapse import COUNT, Collapse, RequestKeys
from dedup_storage.spark.grains import varying_requests
from dedup_storage.spark.raw import Form, RawLog
from dedup_storage.spark.rows import only_row
from dedup_storage.spark.summary import TableSummary, WriteSummary, small_segment_hint
from dedup_storage.tables.features import FeatureGroup, feature_groups, promoted_columns
from dedup_storage.tables.iceberg import in_ranges
from dedup_storage.tables.metadata import DatasetMetadata
from dedup_storage.tables.protocol import Run, Staged, TableFormat
from dedup_storage.tables.sessions import run_session

__all__ = ["Mode", "OnDuplicates", "OnInconstant", "Writer"]

_MOST_DATES = 400
_EXAMPLES = 3


class Mode(StrEnum):
    """What a write does to the event dates it brings."""

    APPEND = "append"
    REPLACE = "replace"


class OnInconstant(StrEnum):
    """What to do with requests whose request-grain columns differ between rows."""

    REFUSE = "refuse"
    FIRST = "first"
    QUARANTINE = "quarantine"


class OnDuplicates(StrEnum):
    """What to do with keys that occur twice, or are in the dataset already."""

    REFUSE = "refuse"
    KEEP_ONE = "keep-one"


class Writer:
    """Writes one raw log into a dataset, once.

    Args:
        tables: The table format.
        settings: Settings of the job.
        spec: The dataset.
        raw: The log.
        run_id: The run; publishing it twice changes nothing.
        mode, on_inconstant, on_duplicates: See the enums.
        gate: Whether the quality gate audits the staged rows.
    """

    def __init__(
        self,
        tables: TableFormat,
        settings: Settings,
        spec: DatasetSpec,
        raw: RawLog,
        *,
        run_id: str,
        mode: Mode = Mode.APPEND,
        on_inconstant: OnInconstant = OnInconstant.REFUSE,
        on_duplicates: OnDuplicates = OnDuplicates.REFUSE,
        gate: bool = True,
    ) -> None:
        self.tables, self.settings, self.spec, self.run_id = tables, settings, spec, run_id
        self.mode, self.on_inconstant, self.on_duplicates = mode, on_inconstant, on_duplicates
        self.gate = gate and settings.quality.enabled
        self.session = run_session(raw.frame.sparkSession)
        self.raw = raw.in_session(self.session)
        self.seconds: dict[str, float] = {}
        self._groups: dict[str, FeatureGroup] = {}
        self._inconstant = self._quarantined = self._dropped = self._left_out = 0

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(self.seconds.get(step, 0.0) + time.perf_counter() - start, 3)

    def write(self) -> WriteSummary:
        """Do it.

        Raises:
            InputError: the log cannot be read, or breaks its contract.
            QualityGateError: the gate refused the staged rows.
            ConflictError: another run changed the same event dates first.
        """
        self._check_columns()
        meta = self.tables.settle(self.spec)
        done = meta.version_of_run(self.run_id)
        if done is not None:
            return self._nothing_to_do(done)
        self._groups = feature_groups(meta, meta.current)
        if self.gate:
            from dedup_storage.quality import check_gate_settings, warm_up

            check_gate_settings(spec=self.spec, settings=self.settings, run_id=self.run_id)
            warm_up()
        collapse = Collapse(self.spec, self.raw, self.settings.catalog.name, self.settings.write.pointer_max_requests)
        if self.on_duplicates is OnDuplicates.KEEP_ONE:
            collapse = collapse.one_row_each()
        with self._timed("keys"):
            keys = collapse.keys()
        try:
            if not keys.stats.requests:
                raise InputError("the log holds no rows", fix="Check the path, or skip this run.")
            return self._write(meta, collapse, keys)
        finally:
            keys.frame.unpersist()

    def _write(self, meta: DatasetMetadata, collapse: Collapse, keys: RequestKeys) -> WriteSummary:
        input_rows = keys.stats.rows
        run = self._run(meta, keys)
        if run.replaced is None and meta.current:
            keys = self._refuse_existing(meta, keys)
        try:
            staged, constant = self._stage(collapse, keys, run)
            if not constant:
                self.tables.discard(self.spec, run)
                run = replace(run, attempt=_attempt(self.run_id))
                collapse, keys = self._resolve_inconstant(collapse, keys, run)
                staged, _ = self._stage(collapse, keys, run, checked=True)
            reached("write:staged")
            docs = self._audit(run, staged, input_rows) if self.gate else None
            reached("write:audited")
        except BaseException:
            self.tables.discard(self.spec, run)
            raise
        with self._timed("publish"):
            members = [s.table for s in staged]
            version = self.tables.publish(self.spec, run, members, lambda now: self._verify(now, keys, run))
        tables = tuple(TableSummary(table=s.table, rows=s.rows, bytes=s.bytes, files=s.files) for s in staged)
        rows = {s.table: s.rows for s in staged}
        requests = rows.get("requests", keys.stats.requests - self._left_out)
        impressions = rows.get("impressions", rows.get("logs", 0))
        return WriteSummary(
            dataset=self.spec.name,
            run_id=self.run_id,
            version=version,
            mode=self.mode.value,
            input_rows=input_rows,
            requests=requests,
            impressions=impressions,
            dedup_factor=round(impressions / requests, 3) if requests else None,
            dates=keys.stats.dates,
            input_bytes=self.raw.stored_bytes(),
            tables=tables,
            inconstant_requests=self._inconstant,
            quarantined_rows=self._quarantined,
            dropped_duplicates=self._dropped,
            gate="passed" if self.gate else "off",
            docs=docs,
            seconds=self.seconds,
            hints=small_segment_hint(tables),
        )

    def _nothing_to_do(self, version: int) -> WriteSummary:
        return WriteSummary(
            dataset=self.spec.name, run_id=self.run_id, version=version, already_published=True, mode=self.mode.value
        )

    def _check_columns(self) -> None:
        found = self.raw.source_types()
        expected = dict(zip(self.spec.source_columns, self.spec.source_types, strict=True))
        for name in expected:
            if name not in found:
                raise SchemaError(
                    f"the column {name} of dataset {self.spec.name} is missing from the log",
                    expected=", ".join(expected),
                    got=known_names(name, found),
                )
        for name, kind in found.items():
            if name not in expected:
                raise SchemaError(
                    f"the column {name} of the log is not in dataset {self.spec.name}",
                    expected=known_names(name, expected),
                    fix="Drop it from the log, or add it to the dataset as a feature group.",
                )
            if kind != expected[name]:
                raise SchemaError(f"the column {name} has another type than before", expected=expected[name], got=kind)

    # -- what the run touches -----------------------------------------------------------------------------------

    def _run(self, meta: DatasetMetadata, keys: RequestKeys) -> Run:
        dates = keys.stats.dates
        replaced = None
        if self.mode is Mode.REPLACE:
            if self.spec.event_date_column is None:
                raise UsageError(
                    "event dates cannot be replaced in a dataset without event time",
                    fix="Name event_time in the schema, or append.",
                )
            replaced = _segment_ranges(dates, self.spec.date_grain)
        return Run(
            run_id=self.run_id,
            job="write",
            attempt=_attempt(self.run_id),
            base=meta.current,
            replaced=replaced,
            dates=dates if len(dates) <= _MOST_DATES else None,
            facts={"mode": self.mode.value, "input-rows": str(keys.stats.rows)},
        )

    def _existing(self, meta: DatasetMetadata, keys: RequestKeys) -> DataFrame:
        """Those of the log's requests that a version of the dataset holds already."""
        anchor = self.spec.anchor.name
        rows = self.tables.read(self.spec.name, anchor, meta.snapshots(meta.current)[anchor])
        names = list(self.spec.request_key)
        columns = [*names, *([self.spec.event_date_column] if self.spec.event_date_column else [])]
        rows = rows.select(*columns)
        dates = keys.stats.dates
        if dates:
            day = F.col(str(self.spec.event_date_column))
            rows = rows.filter((day >= F.lit(dates[0]).cast("date")) & (day <= F.lit(dates[-1]).cast("date")))
        return keys.frame.join(rows.select(*names), names, "left_semi")

    def _refuse_existing(self, meta: DatasetMetadata, keys: RequestKeys) -> RequestKeys:
        with self._timed("existing keys"):
            found = self._existing(meta, keys)
            row = only_row(found.agg(F.count(F.lit(1)).alias("n"), F.sum(COUNT).alias("rows")))
            if not row["n"]:
                return keys
            if self.on_duplicates is OnDuplicates.REFUSE:
                raise DuplicateRowsError(
                    f"{row['n']} requests of the log are in dataset {self.spec.name} already",
                    expected="new requests only",
                    got=f"for example {self._examples(found)}",
                    fix="Use --mode replace for whole event dates, or --on-duplicates keep-one to leave them out.",
                )
            self._dropped += int(row["rows"])
            self._left_out += int(row["n"])
            names = list(self.spec.request_key)
            return keys.only(keys.frame.join(found.select(*names), names, "left_anti"))

    def _verify(self, now: DatasetMetadata, keys: RequestKeys, run: Run) -> None:
        """Versions appeared while this run worked: its requests must still be new."""
        if run.replaced is not None:
            return
        if not self._existing(now, keys).isEmpty():
            self.tables.discard(self.spec, run)
            raise ConflictError(
                f"another run wrote some of the same requests into {self.spec.name} first",
                fix="Nothing was published. Run the job again.",
            )

    def _examples(self, found: DataFrame) -> str:
        """A few request keys for a message; never a user key."""
        shown = found.select(F.to_json(F.struct(*self.spec.schema_.request)).alias("k")).limit(_EXAMPLES)
        return ", ".join(row["k"] for row in shown.toLocalIterator())

    # -- staging ------------------------------------------------------------------------------------------------

    def _stage(
        self, collapse: Collapse, keys: RequestKeys, run: Run, *, checked: bool = False
    ) -> tuple[list[Staged], bool]:
        """Stage all tables; also whether every request-grain column was constant (``checked``: known already)."""
        first = checked and self.on_inconstant is OnInconstant.FIRST
        requests, constant = collapse.requests(keys)
        limited = keys if keys.restricted or first else None
        impressions = collapse.impressions(limited, keep_one=self.on_duplicates is OnDuplicates.KEEP_ONE)
        with self._timed("stage"):
            if self.spec.layout is Layout.FLAT:
                rows = collapse.logs(requests, impressions)
                staged = [self._stage_one(TableRole.LOGS, rows, run, presorted=True)]
            else:
                # Two narrow jobs share the cores; each alone leaves some idle while it plans and commits.
                with ThreadPoolExecutor(2) as pool:
                    b = pool.submit(self._stage_one, TableRole.IMPRESSIONS, impressions, run, presorted=True)
                    r = pool.submit(self._stage_one, TableRole.REQUESTS, requests, run, presorted=False)
                    staged = [r.result(), b.result()]
        with self._timed("constancy"):
            return staged, checked or constant()

    def _stage_one(self, role: TableRole, rows: DataFrame, run: Run, *, presorted: bool) -> Staged:
        table = self.spec.table(role)
        rows = rows.select(*table.columns)
        promoted = promoted_columns(self._groups.values(), table.name)
        if promoted:
            # Their values are computed when the feature group is refreshed.
            rows = rows.select("*", *(F.lit(None).cast(kind).alias(c) for c, kind in promoted.items()))
            table = table.model_copy(update={"columns": (*table.columns, *promoted)})
        carried = self._carried(table, run)
        if carried is not None:
            rows, presorted = rows.unionByName(carried.select(*table.columns)), False
        staged = self.tables.stage(self.spec, table, rows, run, presorted=presorted)
        reached(f"write:staged-{table.name}")
        return staged

    def _carried(self, table: TableSpec, run: Run) -> DataFrame | None:
        """Rows of other dates that share a replaced segment, which is replaced whole."""
        if run.replaced is None or self.spec.date_grain is DateGrain.DAY or not run.base:
            return None
        meta = self.tables.metadata(self.spec.name)
        rows = self.tables.read(self.spec.name, table.name, meta.snapshots(run.base)[table.name])
        inside = in_ranges(str(self.spec.event_date_column), run.replaced)
        replaced = self.session.createDataFrame([(d,) for d in run.dates or ()], "d string")
        dates = replaced.select(F.col("d").cast("date").alias(str(self.spec.event_date_column)))
        return rows.filter(inside).join(F.broadcast(dates), [str(self.spec.event_date_column)], "left_anti")

    # -- requests that are not constant -------------------------------------------------------------------------

    def _resolve_inconstant(self, collapse: Collapse, keys: RequestKeys, run: Run) -> tuple[Collapse, RequestKeys]:
        with self._timed("diagnosis"):
            bad = collapse.varying(keys).persist()
            self._inconstant = bad.count()
            if self.on_inconstant is OnInconstant.REFUSE:
                raise self._constancy_error(collapse, bad)
            if self.on_inconstant is OnInconstant.FIRST:
                return collapse, keys
            return self._quarantine(collapse, keys, bad, run)

    def _constancy_error(self, collapse: Collapse, bad: DataFrame) -> ConstancyError:
        wide = set(self.spec.source_columns) - set(self.spec.request_key)
        fields = [
            f
            for f in self.raw.frame.schema.fields
            if f.name in wide and self.spec.schema_.declared_grains()[f.name].value == "request"
        ]
        _, varying = varying_requests(self.raw.frame, self.spec.request_key, fields)
        counts = ", ".join(f"{column} in {n}" for column, n in varying.items() if n)
        return ConstancyError(
            f"request-grain columns differ inside {self._inconstant} requests: {counts}",
            expected="one value per request",
            got=f"several, for example in request {self._examples(bad)}",
            fix="Declare these columns impression-grain, or choose --on-inconstant first or quarantine.",
        )

    def _quarantine(
        self, collapse: Collapse, keys: RequestKeys, bad: DataFrame, run: Run
    ) -> tuple[Collapse, RequestKeys]:
        """Set the rows of inconstant requests aside, as they came, with the reason."""
        names = list(self.spec.request_key)
        rows = self.raw.frame.join(F.broadcast(bad), names, "left_semi")
        table = TableSpec(
            role=TableRole.QUARANTINE,
            name="quarantine",
            columns=(*self.spec.source_columns, "quarantine_reason", "quarantine_run"),
            sort_columns=self.spec.request_key,
        )
        types = dict(zip(self.spec.source_columns, self.spec.source_types, strict=True))
        types |= {"quarantine_reason": "string", "quarantine_run": "string"}
        undated = self.spec.model_copy(update={"date_grain": DateGrain.NONE})
        self.tables.create_table(undated, table, types)
        rows = rows.withColumn("quarantine_reason", F.lit("request-grain columns differ inside the request"))
        rows = rows.withColumn("quarantine_run", F.lit(self.run_id))
        staged = self.tables.stage(self.spec, table, rows, replace(run, replaced=None))
        self._quarantined = staged.rows
        self._left_out += self._inconstant
        return collapse.without(bad), keys.only(keys.frame.join(bad, names, "left_anti"))

    # -- audit --------------------------------------------------------------------------------------------------

    def _audit(self, run: Run, staged: list[Staged], input_rows: int) -> str:
        from dedup_storage.quality import GateFacts, require, run_gate

        frames = {s.table: self._staged_rows(s, run) for s in staged}
        rows = {s.table: s.rows for s in staged}
        carried = run.replaced is not None and self.spec.date_grain is not DateGrain.DAY
        facts = GateFacts(
            input_rows=None if carried else input_rows,
            quarantined_rows=self._quarantined,
            dropped_duplicates=self._dropped,
            written_request_rows=rows.get("requests"),
            written_impression_rows=rows.get("impressions", rows.get("logs")),
            inconstant_requests=0,
            empty_requests=0 if self.raw.form is Form.FLAT else None,
        )
        with self._timed("gate"):
            verdict = run_gate(
                spec=self.spec,
                settings=self.settings,
                run_id=self.run_id,
                facts=facts,
                requests=frames.get("requests"),
                impressions=frames.get("impressions"),
                logs=frames.get("logs"),
            )
        require(verdict)
        return verdict.docs

    def _staged_rows(self, staged: Staged, run: Run) -> DataFrame:
        """The rows a run staged, alone."""
        if run.replaced is None:
            return self.tables.read(self.spec.name, staged.table, staged.snapshot_id, since=staged.parent_id)
        rows = self.tables.read(self.spec.name, staged.table, staged.snapshot_id)
        dates = [F.lit(d).cast("date") for d in run.dates or ()]
        return rows.filter(F.col(str(self.spec.event_date_column)).isin(*dates)) if dates else rows


def _attempt(run_id: str) -> str:
    return f"{run_id}/{uuid.uuid4().hex[:12]}"


def _segment_ranges(dates: tuple[str, ...], grain: DateGrain) -> tuple[tuple[str, str], ...]:
    """Half-open date ranges of the segments that hold the dates, neighbours joined.

    Example: days 2024-01-30 and 2024-01-31 -> (("2024-01-30", "2024-02-01"),)
    """
    if grain is DateGrain.NONE:
        return (("", ""),)
    ranges: list[tuple[date, date]] = []
    for day in (date.fromisoformat(d) for d in dates):
        low, high = day, day + timedelta(days=1)
        if grain is DateGrain.MONTH:
            low = day.replace(day=1)
            high = (low + timedelta(days=32)).replace(day=1)
        if ranges and low <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(high, ranges[-1][1]))
        else:
            ranges.append((low, high))
    return tuple((low.isoformat(), high.isoformat()) for low, high in ranges)
