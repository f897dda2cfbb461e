"""One write: collapse, stage, audit, publish."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.dataset.write.attempt import write_run
from dedup_storage.dataset.write.audit import audit_staged, staged_rows
from dedup_storage.dataset.write.collapse import COUNT, Collapse, InputStats, RequestKeys
from dedup_storage.dataset.write.columns import Fitted, extend_tables, refuse_taken
from dedup_storage.dataset.write.existing import (
    carried_rows,
    has_segments,
    orphaned,
    refuse_carried,
    refuse_orphans,
    refuse_repeated,
    stored_requests,
)
from dedup_storage.dataset.write.inconstant import constancy_error, example_requests, quarantine
from dedup_storage.dataset.write.policies import Mode, OnDuplicates, OnInconstant
from dedup_storage.dataset.write.summary import TableSummary, WriteSummary, layout_hint, small_segment_hint
from dedup_storage.dataset.write.user_lists import GrownListsError, Laid, lay, refuse_grown
from dedup_storage.dataset.write.user_proof import require_as_laid
from dedup_storage.errors import ConflictError, DuplicateRowsError, InputError
from dedup_storage.faults import reached
from dedup_storage.lake.engine.sessions import run_session
from dedup_storage.lake.groups import FeatureGroup, promoted_columns
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import Run, Staged
from dedup_storage.lake.publishing import require_same
from dedup_storage.lake.requests import Request
from dedup_storage.lake.runs import new_attempt
from dedup_storage.lake.staging import staging
from dedup_storage.layout import Layout, TableRole, TableSpec
from dedup_storage.schema import DateGrain
from dedup_storage.sources.raw import Form
from dedup_storage.spark.beside import beside
from dedup_storage.spark.rows import only_row
from dedup_storage.spark.steps import TimedSteps
from dedup_storage.words import counted

if TYPE_CHECKING:
    from dedup_storage.quality import Verdict

__all__ = ["Mode", "OnDuplicates", "OnInconstant", "Writer"]


class Writer(TimedSteps):
    """Writes one raw log into a dataset, once.

    Args:
        handle: The dataset.
        meta: Its tables, no publication pending; ``None`` for a dataset that would be made, which can be planned alone.
        log: The log with the dataset's columns, and the dataset as the log leaves it.
        run_id: The run; publishing it twice changes nothing.
        mode, on_inconstant, on_duplicates: See the enums.
        request: What the run is asked to do; ``None`` for a run id that nobody can give again.
        gate: Whether the quality gate audits the staged rows.
    """

    def __init__(
        self,
        handle: Handle,
        meta: DatasetMetadata | None,
        log: Fitted,
        *,
        run_id: str,
        mode: Mode = Mode.APPEND,
        on_inconstant: OnInconstant = OnInconstant.REFUSE,
        on_duplicates: OnDuplicates = OnDuplicates.REFUSE,
        request: Request | None = None,
        gate: bool = True,
    ) -> None:
        self.before, self.meta, self.log = handle.spec, meta, log
        self.handle, self.run_id, self.request = replace(handle, spec=log.spec), run_id, request
        self.tables, self.spec = handle.tables, log.spec
        self.mode, self.on_inconstant, self.on_duplicates = mode, on_inconstant, on_duplicates
        self.gate = gate and handle.settings.quality.enabled
        self.session = run_session(log.raw.frame.sparkSession)
        # Keys are kept and read several times: each partition that they are kept in is a task of all of these.
        self.session.conf.set("spark.sql.optimizer.canChangeCachedPlanOutputPartitioning", "true")
        self.raw = log.raw.in_session(self.session)
        self.seconds: dict[str, float] = {}
        # Of this attempt: an error from then on is none of the log's.
        self.has_read = False
        self._groups: Mapping[str, FeatureGroup] = {}
        self._inconstant = self._quarantined = self._dropped = self._left_out = 0
        # Impressions of request rows that a nested log has twice: they go before anything is counted.
        self._copied = 0
        self._base: Cut
        self._laid: Laid | None = None
        # Event dates of the log, all of them: a run keeps few.
        self._dates: tuple[str, ...] = ()

    def write(self) -> WriteSummary:
        """Do it.

        Raises:
            InputError: the log cannot be read, or breaks its contract.
            QualityGateError: the gate refused the staged rows.
            ConflictError: another run changed the same event dates first.
        """
        meta = self.meta
        assert meta is not None  # noqa: S101 - a write is planned alone where there is no dataset
        done = self._done(meta)
        if done is not None:
            return done
        base = Cut(self.handle, meta, meta.current)
        self._groups = base.groups
        if self.gate:
            from dedup_storage.quality import check_gate_settings, warm_up

            check_gate_settings(spec=self.spec, settings=self.handle.settings, run_id=self.run_id)
            warm_up()
        with self._keys() as (collapse, keys):
            for _ in range(self.handle.settings.write.conflict_retries):
                try:
                    return self._write(base, collapse, keys)
                except GrownListsError:
                    # The same log once more, on the users' lists as they are now.
                    meta = self.tables.settle(self.spec)
                    self._refuse_other_columns(meta)
                    base = Cut(self.handle, meta, meta.current)
                    self._groups = base.groups
                    self._inconstant = self._quarantined = self._dropped = self._left_out = 0
            return self._write(base, collapse, keys)

    @contextmanager
    def _keys(self) -> Iterator[tuple[Collapse, RequestKeys]]:
        """The log's requests."""
        collapse = Collapse(self.handle, self.raw, self.handle.settings.write.pointer_max_requests)
        given = collapse
        if self.on_duplicates is OnDuplicates.KEEP_ONE:
            collapse = collapse.one_row_each()
        with self.timed("keys"):
            keys = collapse.keys()
            if collapse is not given and self.raw.form is Form.NESTED:
                self._copied = given.candidates_of_all() - keys.stats.rows
        try:
            if not keys.stats.requests:
                raise InputError("the log holds no rows", fix="Check the path, or skip this run.")
            if not self._counted_later:
                refuse_orphans(self.raw, keys)
            yield collapse, keys
        finally:
            keys.frame.unpersist()

    def _write(self, base: Cut, collapse: Collapse, keys: RequestKeys) -> WriteSummary:
        input_rows = keys.stats.rows + self._copied
        self._base, self.has_read = base, False
        run = self._run(base.version, keys)
        if run.replaced is None and base.version:
            keys = self._refuse_existing(base, keys)
        self._refuse_carried(run, keys)
        if self.log.added:
            extend_tables(self.handle, self.log)
            reached("write:extended")
        with ExitStack() as attempt:
            listed = attempt.enter_context(staging(self.tables, self.spec, run))
            attempt.callback(self._release)
            staged, constant = self._stage(collapse, keys, run)
            if not constant:
                self.tables.discard(self.spec, run)
                run = replace(run, attempt=new_attempt(self.run_id))
                listed = attempt.enter_context(staging(self.tables, self.spec, run))
                collapse, keys = self._resolve_inconstant(collapse, keys, run)
                staged, _ = self._stage(collapse, keys, run, checked=True)
            listed += staged
            reached("write:staged")
            self._refuse_lost_rows(run, staged, keys)
            own = self._own_rows(run, staged)
            if self.on_duplicates is OnDuplicates.KEEP_ONE:
                # Repeated rows fell to one another while staging, beside those that the dataset holds already.
                self._dropped = input_rows - self._quarantined - own
            # All that is read of the log is read by now, some of it twice.
            self.raw.require_unchanged()
            self.has_read = True
            verdict = self._audit(run, staged, input_rows) if self.gate else None
            reached("write:audited")
        with self.timed("publish"):
            members = [s.table for s in staged]
            version = self.tables.publish(self.spec, run, members, lambda now: self._verify(now, keys, run))
        tables = tuple(TableSummary(table=s.table, rows=s.rows, bytes=s.bytes, files=s.files) for s in staged)
        hints = (*layout_hint(self.spec), *small_segment_hint(tables))
        rows = {s.table: s.rows for s in staged}
        asked = keys.stats.requests - self._left_out
        requests = asked if self._carries else rows.get("requests", asked)
        return self._summary(
            replace(keys.stats, rows=input_rows),
            version,
            requests=requests,
            impressions=own,
            dedup_factor=round(own / requests, 3) if requests else None,
            tables=tables,
            inconstant_requests=self._inconstant,
            quarantined_rows=self._quarantined,
            gate="passed" if self.gate else "off",
            docs=None if verdict is None else verdict.docs,
            hints=(*hints, *(verdict.hints if verdict is not None else ())),
        )

    def _summary(self, stats: InputStats, version: int, **own: Any) -> WriteSummary:
        """What a write and its plan both tell, and what one of them tells alone."""
        return WriteSummary(
            dataset=self.spec.name,
            run_id=self.run_id,
            version=version,
            mode=self.mode.value,
            input_rows=stats.rows,
            dates=stats.dates,
            input_bytes=self.raw.stored_bytes(),
            dropped_duplicates=self._dropped,
            seconds=self.seconds,
            date_grain=self.spec.date_grain.value,
            buckets=self.spec.buckets,
            epoch_grain=self.spec.told_epochs,
            added_columns=self.log.added,
            filled_columns=self.log.filled,
            notes=self.raw.notes,
            **own,
        )

    def _done(self, meta: DatasetMetadata) -> WriteSummary | None:
        """The summary of a run that a version holds already."""
        version = require_same(meta, None if self.request is None else self.request.text, self.run_id)
        if version is None:
            return None
        return WriteSummary(
            dataset=self.spec.name, run_id=self.run_id, version=version, already_published=True, mode=self.mode.value
        )

    # -- what the run touches -----------------------------------------------------------------------------------

    def _run(self, base: int, keys: RequestKeys) -> Run:
        self._dates = keys.stats.dates
        return write_run(self.log, self.mode, self.run_id, base, keys.stats, self.request)

    def _refuse_existing(self, base: Cut, keys: RequestKeys) -> RequestKeys:
        with self.timed("existing keys"):
            if not has_segments(base, keys):
                return keys
            existing = stored_requests(base, keys)
            row = only_row(existing.agg(F.count(F.lit(1)).alias("n"), F.sum(COUNT).alias("rows")))
            if not row["n"]:
                return keys
            if self.on_duplicates is OnDuplicates.REFUSE:
                raise DuplicateRowsError(
                    f"{counted(row['n'], 'request', 'is')} in the dataset {self.spec.name} already",
                    expected="new requests only",
                    got=f"for example {example_requests(self.spec, existing)}",
                    fix="Use --mode replace for whole event dates, or --on-duplicates keep-one to leave them out.",
                )
            self._dropped += int(row["rows"])
            self._left_out += int(row["n"])
            names = list(self.spec.request_key)
            return keys.only(keys.frame.join(existing.select(*names), names, "left_anti"))

    def _carried(self, table: TableSpec, run: Run) -> DataFrame | None:
        """Rows of other dates that share a replaced segment, which is replaced whole."""
        if run.replaced is None or not self._carries or not run.base:
            return None
        base = Cut(self.handle, self.handle.metadata(), run.base)
        return carried_rows(base, table.name, run.replaced, self._dates)

    def _refuse_carried(self, run: Run, keys: RequestKeys) -> None:
        carried = self._carried(self.spec.anchor, run)
        if carried is not None:
            with self.timed("existing keys"):
                refuse_carried(self.spec, carried, keys)

    @property
    def _counted_later(self) -> bool:
        """Whether impressions without a request row show when the staged rows are counted: nothing else counts too,
        and the frames are joined."""
        joined = self.spec.event_date_column is not None and self.on_duplicates is OnDuplicates.REFUSE
        return joined and not self._carries

    def _verify(self, now: DatasetMetadata, keys: RequestKeys, run: Run) -> None:
        """Versions appeared while this run worked: its requests and its columns must still be new."""
        self._refuse_other_columns(now)
        refuse_grown(self._base, now)
        if run.replaced is not None:
            return
        if not stored_requests(Cut(self.handle, now, now.current), keys).isEmpty():
            what = f"another run wrote some of the same requests into {self.spec.name} first"
            raise ConflictError(what, fix="Nothing was published. Run the job again.")

    def _refuse_other_columns(self, now: DatasetMetadata) -> None:
        """The log was fitted to the columns that the dataset had."""
        if now.spec != self.before:
            what = f"another run changed the columns of {self.spec.name} first"
            raise ConflictError(what, fix="Nothing was published. Run the job again.")
        if self.log.added:
            refuse_taken(replace(self.handle, spec=now.spec), now, {c: self.spec.types[c] for c in self.log.added})

    # -- staging ------------------------------------------------------------------------------------------------

    def _stage(
        self, collapse: Collapse, keys: RequestKeys, run: Run, *, checked: bool = False
    ) -> tuple[list[Staged], bool]:
        """Stage all tables; also whether every request-grain column was constant (``checked``: known already)."""
        if self.spec.events:
            return self._stage_laid(collapse, keys, run, checked=checked)
        requests, constant = collapse.requests(keys)
        impressions, repeated = self._impressions(collapse, keys, checked=checked)
        with self.timed("stage"):
            if self.spec.layout is Layout.FLAT:
                rows = collapse.logs(requests, impressions)
                staged = [self._stage_one(TableRole.LOGS, rows, run, presorted=True)]
            else:
                # One after the other: Parquet's writers of one process share a factory that knows only the newest
                # file's dictionary settings, so that files of the other table would get them (decisions, 14).
                staged = [
                    self._stage_one(TableRole.REQUESTS, requests, run, presorted=False),
                    self._stage_one(TableRole.IMPRESSIONS, impressions, run, presorted=True),
                ]
        with self.timed("constancy"):
            refuse_repeated(self.spec, repeated())
            return staged, checked or constant()

    def _stage_laid(
        self, collapse: Collapse, keys: RequestKeys, run: Run, *, checked: bool
    ) -> tuple[list[Staged], bool]:
        """The same for layout ``user``: the lists laid into those of their users, and what is new in these."""
        requests, constant = collapse.requests(keys)
        impressions, repeated = self._impressions(collapse, keys, checked=checked)
        rows = requests.select(*(c for c in self.spec.anchor.columns if c in requests.columns))
        if self.gate:
            from dedup_storage.quality import with_derived

            rows = with_derived(rows, self.spec)
        few = keys.stats.requests <= self.handle.settings.write.pointer_max_requests
        self._release()
        laid = self._laid = lay(self.handle, self._base, rows, keys.frame.select(self.spec.schema_.user), few=few)
        with self.timed("stage"):
            sorted_rows = collapse.in_segments(laid.requests())
            staged = [self._stage_one(TableRole.REQUESTS, sorted_rows, run, presorted=True)]
            for group in self.spec.events:
                table = next(t for t in self.spec.tables if t.name == group.table)
                staged.append(self.tables.stage(self.spec, table, laid.events(group), run, presorted=True))
                reached(f"write:staged-{table.name}")
        prove = partial(require_as_laid, self.handle, laid, run, tuple(staged), self._dates)
        with beside(self.session, prove) as proved:
            with self.timed("stage"):
                staged.append(self._stage_one(TableRole.IMPRESSIONS, impressions, run, presorted=True))
            with self.timed("constancy"):
                refuse_repeated(self.spec, repeated())
                same = checked or constant()
            if same:
                with self.timed("lists"):
                    proved()
        return staged, same

    def _release(self) -> None:
        if self._laid is not None:
            self._laid.release()
        self._laid = None

    def _impressions(
        self, collapse: Collapse, keys: RequestKeys, *, checked: bool
    ) -> tuple[DataFrame, Callable[[], int]]:
        first = checked and self.on_inconstant is OnInconstant.FIRST
        limited = keys if keys.restricted or first else None
        return collapse.impressions(limited, keep_one=self.on_duplicates is OnDuplicates.KEEP_ONE)

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
            new = {c: F.lit(None).cast(self.spec.types[c]) for c in self.log.added if c in table.columns}
            carried = carried.withColumns(new) if new else carried
            rows, presorted = rows.unionByName(carried.select(*table.columns)), False
        staged = self.tables.stage(self.spec, table, rows, run, presorted=presorted)
        reached(f"write:staged-{table.name}")
        return staged

    def _resolve_inconstant(self, collapse: Collapse, keys: RequestKeys, run: Run) -> tuple[Collapse, RequestKeys]:
        with self.timed("diagnosis"):
            inconstant = collapse.varying(keys).persist()
            self._inconstant = inconstant.count()
            if not self._inconstant:  # two rows had one pointer
                return collapse.without_pointers(), keys
            if self.on_inconstant is OnInconstant.REFUSE:
                raise constancy_error(self.spec, self.raw, inconstant, self._inconstant)
            if self.on_inconstant is OnInconstant.FIRST:
                # What a row holds decides which is kept, not where it lies.
                return collapse.without_pointers(), keys
            self._quarantined = quarantine(self.handle, self.raw, inconstant, run).rows
            self._left_out += self._inconstant
            kept = keys.frame.join(inconstant, list(self.spec.request_key), "left_anti")
            return collapse.without(inconstant), keys.only(kept)

    # -- audit --------------------------------------------------------------------------------------------------

    def _own_rows(self, run: Run, staged: list[Staged]) -> int:
        """Impressions of this log among the staged ones.

        A segment that is replaced whole is staged with the rows of its other dates.
        """
        last = staged[-1]
        if not self._carries:
            return last.rows
        return staged_rows(self.handle, last, run, self._dates).count()

    def _refuse_lost_rows(self, run: Run, staged: list[Staged], keys: RequestKeys) -> None:
        """Every impression of the log must be staged, set aside or left out on purpose."""
        if self._carries or self.on_duplicates is OnDuplicates.KEEP_ONE:
            return
        accounted = staged[-1].rows + self._quarantined
        if accounted != keys.stats.rows:
            raise orphaned(keys.stats.rows - accounted)

    def _audit(self, run: Run, staged: list[Staged], input_rows: int) -> Verdict:
        from dedup_storage.quality import GateFacts

        rows = {s.table: s.rows for s in staged}
        # The gate sees the log's dates alone; what was written holds the other dates of their segments too.
        mixed = self._carries
        facts = GateFacts(
            input_rows=input_rows,
            quarantined_rows=self._quarantined,
            dropped_duplicates=self._dropped,
            written_request_rows=None if mixed else rows.get("requests"),
            written_impression_rows=None if mixed else rows.get("impressions", rows.get("logs")),
            inconstant_requests=0,
            empty_requests=0 if self.raw.form is Form.FLAT else None,
        )
        with self.timed("gate"):
            laid = None if self._laid is None else self._laid.audited()
            return audit_staged(self.handle, run, staged, facts, self._dates, laid)

    @property
    def _carries(self) -> bool:
        """Whether rows of other dates are staged too, because they share a replaced segment."""
        return self.mode is Mode.REPLACE and self.spec.date_grain is not DateGrain.DAY
