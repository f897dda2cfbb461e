"""One backfill: plan, rewrite segment by segment, audit, publish as one version."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import replace

from pyspark.sql import functions as F

from dedup_storage.choices import choice
from dedup_storage.dataset.backfill.affected import AffectedRows
from dedup_storage.dataset.backfill.audit import audit_rows, audit_segments
from dedup_storage.dataset.backfill.other_parts import refuse_other_parts
from dedup_storage.dataset.backfill.parts import (
    MOST_SEGMENTS,
    Part,
    SegmentFiles,
    done_segments,
    left_files,
    parts_of,
    run_part,
)
from dedup_storage.dataset.backfill.plan import BackfillPlan, make_plan
from dedup_storage.dataset.backfill.request import Affected, Change, Strategy, backfill_request, former_digest
from dedup_storage.dataset.backfill.summary import BackfillSummary, Comparison
from dedup_storage.dataset.backfill.target import changed_fact, find_target
from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.errors import ConflictError, DedupStorageError, DuplicateRowsError, VersionNotFoundError
from dedup_storage.faults import reached
from dedup_storage.lake.branch import BASE, Branch, goes_on, is_worthless
from dedup_storage.lake.conflicts import overlap
from dedup_storage.lake.engine.sessions import run_session
from dedup_storage.lake.engine.status import counted_reads
from dedup_storage.lake.facts import CHANGED, COLUMNS
from dedup_storage.lake.history import Added, DatasetMetadata
from dedup_storage.lake.protocol import Run
from dedup_storage.lake.publishing import require_described, require_same
from dedup_storage.lake.requests import REQUEST, Request, begun_otherwise
from dedup_storage.lake.runs import new_attempt
from dedup_storage.lake.segments import MAINTAIN, Segment
from dedup_storage.spark.errors import translated
from dedup_storage.spark.rows import only_row
from dedup_storage.spark.steps import TimedSteps
from dedup_storage.words import counted

__all__ = ["Backfill", "Progress"]

# Finished segments, all segments, planned bytes written so far, planned bytes in all.
Progress = Callable[[int, int, int, int], None]
_RETRIES = 2


class Backfill(TimedSteps):
    """Recomputes columns for affected rows, once.

    Args:
        handle: The dataset.
        change: What to recompute.
        affected: For whom.
        run_id: The run; publishing it twice changes nothing.
        strategy: The same for all segments; ``None`` takes the cheapest for each.
        gate: Whether the quality gate audits the rewritten segments.
        part_segments: Most segments of one commit; what is lost when the run is killed.
        progress: Called after each part.
        job: Job name kept with the version.
        beside: Stages rows in further tables that belong to the same version, and names these tables.
        request: What the run is asked to do, where ``change`` and ``affected`` are made of something else.
        against: Gives the change for the version that an attempt starts from, where it depends on what that version
            holds; ``change`` then tells its columns alone.
    """

    def __init__(
        self,
        handle: Handle,
        change: Change,
        affected: Affected,
        *,
        run_id: str,
        strategy: Strategy | str | None = None,
        gate: bool = True,
        part_segments: int = MOST_SEGMENTS,
        progress: Progress | None = None,
        job: str = "backfill",
        beside: Callable[[Run], list[str]] | None = None,
        request: Request | None = None,
        against: Callable[[Cut], Change] | None = None,
    ) -> None:
        self.handle = replace(handle, spark=run_session(handle.spark))
        self.tables, self.spec = handle.tables, handle.spec
        self.change, self.affected, self.run_id, self.job = change, affected, run_id, job
        self.strategy = None if strategy is None else choice(Strategy, strategy, "strategy")
        self.gate = gate and handle.settings.quality.enabled
        self.part_segments, self.progress, self.beside = part_segments, progress, beside
        self.seconds: dict[str, float] = {}
        self._read_bytes = 0
        # The version that the last attempt began at.
        self._base: int | None = None
        self._looks = ExitStack()
        self._request, self.against = request, against

    def _asked(self, meta: DatasetMetadata) -> Request:
        """What the run is asked to do; its rows are read once."""
        if self._request is None:
            keys = find_target(meta, meta.current, self.change.names).keys
            self._request = backfill_request(self.job, self.change, self.affected, meta, keys)
        return self._request

    def plan(self, *, named: bool = False) -> BackfillPlan:
        """What the run would do to the current version; nothing is written.

        Args:
            named: The run id was given: what is published or begun under it counts.

        Raises:
            UsageError: what to do is not clear, or cannot be done.
        """
        with translated(), ExitStack() as self._looks:
            cut = self.handle.cut()
            if self.gate:
                from dedup_storage.quality import check_gate_settings

                check_gate_settings(spec=self.spec, settings=self.handle.settings, run_id=self.run_id)
            if not named:
                return make_plan(self._rows(cut), self.strategy, asked=self.against is None)
            meta = cut.meta
            if meta.version_of_run(self.run_id) is not None:
                return self._published(cut, require_same(meta, self._asked(meta).text, self.run_id))
            rows, plan, branch = self._begin(meta, dry_run=True)
            parts = branch.parts()
            begun = bool(parts) and int(parts[-1].facts[BASE]) == plan.base
            resumed = begun and branch.begun_at() == rows.target.snapshot_id
            return plan.model_copy(update={"resumed_segments": len(done_segments(branch)) if resumed else 0})

    def _published(self, cut: Cut, version: int | None) -> BackfillPlan:
        """The plan of a run that is done: nothing."""
        target = find_target(cut.meta, cut.version, self.change.names)
        sums = dict.fromkeys(("affected_rows", "read_bytes", "write_bytes", "fixed_bytes"), 0)
        return BackfillPlan(
            dataset=self.spec.name, table=target.table, columns=self.change.names, base=cut.version, published=version,
            segments_total=0, table_bytes=cut.meta.totals(target.table, target.snapshot_id).bytes, strategies={},
            untouched=(), segments=(), **sums,
        )  # fmt: skip

    def _rows(self, cut: Cut) -> AffectedRows:
        target = find_target(cut.meta, cut.version, self.change.names)
        change = self.change if self.against is None else self.against(cut)
        rows = AffectedRows(cut, target, change, self.affected)
        self._looks.callback(rows.release)
        # Before anything is kept: of what is kept, the plan no longer says how it is made.
        rows.refuse_unstable()
        # Analyses every expression, so that what cannot be computed is refused before anything is written.
        _ = rows.values().schema
        _ = rows.rows(()).schema
        rows.refuse_lost()
        self._refuse_duplicates(rows)
        return rows

    def _refuse_duplicates(self, rows: AffectedRows) -> None:
        if rows.replacement is None:
            return
        keys = rows.target.keys
        twice = rows.replacement.groupBy(*keys).count().filter("count > 1")
        count = int(only_row(twice.agg(F.count(F.lit(1)).alias("n")))["n"])
        if count:
            raise DuplicateRowsError(
                f"{counted(count, 'key', 'occurs')} twice in the replacement rows",
                expected=f"each {', '.join(keys)} once",
            )

    # -- the run ------------------------------------------------------------------------------------------------

    def run(self) -> BackfillSummary:
        """Do it.

        Raises:
            UsageError: what to do is not clear, or cannot be done; nothing was changed.
            QualityGateError: the gate refused the rewritten segments.
            ConflictError: another run changed the same segments first.
        """
        with translated(), ExitStack() as self._looks:
            for _ in range(_RETRIES):
                try:
                    return self._once()
                except ConflictError:
                    # Compaction moved the rows into other files; they are the same rows.
                    if self._base is None or not self._only_compacted(self._base):
                        raise
            return self._once()

    def _only_compacted(self, base: int) -> bool:
        meta = self.tables.take_in(self.spec)
        later = (v for v in range(base + 1, meta.current + 1) if v not in meta.abandoned)
        modes = [meta.claim(v).get("mode") for v in later]
        return MAINTAIN in modes and set(modes) <= {MAINTAIN, "append"}

    def _once(self) -> BackfillSummary:
        with translated():
            meta = self.tables.settle(self.spec)
            self._base = meta.current
            require_described(meta, self.spec)
            if meta.version_of_run(self.run_id) is not None:
                done = require_same(meta, self._asked(meta).text, self.run_id)
                # Killed between publication and clean-up, the run left its branch behind.
                table = find_target(meta, meta.current, self.change.names).table
                self.tables.branch(self.spec.name, table, self.run_id).drop()
                return BackfillSummary(dataset=self.spec.name, run_id=self.run_id, version=done, already_published=True)
            meta.resolve(None)
            meta = self.tables.take_in(self.spec, meta)
            if self.gate:
                from dedup_storage.quality import check_gate_settings, warm_up

                check_gate_settings(spec=self.spec, settings=self.handle.settings, run_id=self.run_id)
                warm_up()
            with self.timed("plan"):
                rows, plan, branch = self._begin(meta)
            if not plan.segments and self.beside is None:
                return self._summary(plan, meta.current, docs=None, gate="not needed", resumed=0)
            try:
                with translated():
                    return self._run(rows, plan, branch)
            except DedupStorageError as error:
                if is_worthless(error):
                    branch.drop()
                    raise
                raise error.advised(goes_on(self.run_id)) from error

    def _begin(self, meta: DatasetMetadata, *, dry_run: bool = False) -> tuple[AffectedRows, BackfillPlan, Branch]:
        """Go on where an earlier attempt of this run stopped, or begin at the current version; a dry run begins
        nothing."""
        table = find_target(meta, meta.current, self.change.names).table
        refuse_other_parts(self.tables, meta, lambda: self._asked(meta), self.run_id, besides=table)
        branch = self.tables.branch(self.spec.name, table, self.run_id)
        parts = branch.parts()
        if parts:
            facts = parts[-1].facts
            self._require_same(meta, facts.get(REQUEST))
            try:
                rows = self._rows(Cut(self.handle, meta, meta.resolve(int(facts[BASE]))))
                plan = make_plan(rows, self.strategy, asked=self.against is None)
            except VersionNotFoundError:
                plan = None
            # Segments of parts of before another number of buckets are none of today's.
            if plan is not None and meta.rebucketed(plan.base) is None and branch.begun_at() == rows.target.snapshot_id:
                segments = {table: frozenset(s.segment for s in plan.segments) | done_segments(branch)}
                later = range(plan.base + 1, meta.current + 1)
                grain = self.spec.date_grain
                if not any(overlap(meta.claim(v), grain, dates=(), segments=segments, reads=rows.reads) for v in later):
                    return rows, plan, branch
        rows = self._rows(Cut(self.handle, meta, meta.current))
        plan = make_plan(rows, self.strategy, asked=self.against is None)
        if plan.segments and not dry_run:
            branch.open(rows.target.snapshot_id)
        return rows, plan, branch

    def _require_same(self, meta: DatasetMetadata, kept: str | None) -> None:
        """Refuse to go on with parts of another request; those of a backfill always said what it was."""
        self._asked(meta).require_same(kept, self.run_id)
        if Request.from_text(kept) is None and kept != former_digest(self.change, self.affected):
            raise begun_otherwise(self.run_id)

    def _run(self, rows: AffectedRows, plan: BackfillPlan, branch: Branch) -> BackfillSummary:
        finished = done_segments(branch)
        resumed = len(finished)
        run = self._describe(rows, plan, branch, finished)
        request = self._asked(rows.cut.meta).text
        with self.timed("rewrite"):
            written, files = 0, left_files(rows, plan, finished)
            for part in parts_of(plan, finished, self.part_segments):
                self._part(rows, branch, run, part, request, files)
                reached("backfill:part")
                finished |= set(part.names)
                written += part.write_bytes
                if self.progress is not None:
                    self.progress(len(finished), len(plan.segments), written, plan.write_bytes)
        reached("backfill:rewritten")
        docs = None
        if plan.segments:
            self._audit_rows(rows, branch)
            if self.gate:
                with self.timed("gate"):
                    docs = audit_segments(rows, branch, run)
        reached("backfill:audited")
        try:
            beside = self.beside(run) if self.beside is not None else []
            reached("backfill:beside")
            if not plan.segments and not beside:
                return self._summary(plan, plan.base, docs=None, gate="not needed", resumed=resumed)
            with self.timed("publish"):
                version = self._publish(run, beside)
        finally:
            # What was published is held by its version; the rest of the attempt is of no use to anyone.
            self.tables.discard(self.spec, run)
        reached("backfill:published")
        branch.drop()
        gate = ("passed" if docs else "rows only") if self.gate else "off"
        return self._summary(plan, version, docs=docs, gate=gate, resumed=resumed)

    def _publish(self, run: Run, beside: list[str]) -> int:
        members = dict.fromkeys((*(run.segments or {}), *beside, *run.table_facts, self.spec.anchor.name))
        return self.tables.publish(self.spec, run, list(members))

    def _describe(self, rows: AffectedRows, plan: BackfillPlan, branch: Branch, finished: set[Segment]) -> Run:
        segments = frozenset(s.segment for s in plan.segments) | finished
        return Run(
            run_id=self.run_id,
            job=self.job,
            attempt=new_attempt(self.run_id),
            base=plan.base,
            dates=tuple(sorted({s.date for s in segments})),
            segments={plan.table: segments} if segments else {},
            reads=rows.reads,
            branch=branch.name,
            table_facts=self._table_facts(rows, segments),
            facts={
                "mode": "backfill",
                "table": plan.table,
                "columns": ",".join(plan.columns),
                "affected-rows": str(plan.affected_rows),
                **self._asked(rows.cut.meta).facts,
            },
        )

    def _table_facts(self, rows: AffectedRows, segments: Collection[Segment]) -> dict[str, dict[str, str]]:
        """What the tables' parts of the version say: that other columns than these kept their values."""
        if not segments:
            return {}
        columns = {COLUMNS: ",".join(rows.change.names)}
        # Groups that read a bundled one see by its own table, which has no rows, where its values changed.
        changed = {CHANGED: changed_fact(segments), **columns}
        return {rows.target.table: columns, **{g.table: changed for g in rows.changed_groups() if g.bundled}}

    def _part(
        self, rows: AffectedRows, branch: Branch, run: Run, part: Part, request: str, files: SegmentFiles
    ) -> None:
        try:
            with translated(), counted_reads(self.handle.spark) as reads:
                run_part(rows, branch, run, part, request, files)
            self._read_bytes += reads.bytes
        except ConflictError:
            # The same run at work in another process has done this part.
            if not set(part.names) <= done_segments(branch):
                raise

    def _audit_rows(self, rows: AffectedRows, branch: Branch) -> None:
        audit_rows(rows, branch)

    # -- summary ------------------------------------------------------------------------------------------------

    def _summary(
        self, plan: BackfillPlan, version: int, *, docs: str | None, gate: str, resumed: int
    ) -> BackfillSummary:
        meta, touched = self.handle.metadata(), len(plan.segments)
        snapshot_id = meta.snapshots(version)[plan.table]
        actual = meta.added(plan.table, snapshot_id) if touched else Added(segments=0, rows=0, bytes=0)
        merged = sum(s.affected_files for s in plan.segments if s.strategy is Strategy.MERGE_ON_READ)
        # Some file systems count nothing; parts that an earlier attempt did are not counted here.
        read = [("bytes_read", plan.read_bytes, self._read_bytes)] if self._read_bytes and not resumed else []
        pairs = (
            *read,
            ("segments", touched, actual.segments),
            ("rows", plan.rows_written, actual.rows),
            ("deletion_vectors", merged, actual.marks),
            ("bytes", plan.write_bytes, actual.bytes),
        )
        sequences = set(self.spec.schema_.sequence_columns)
        columns = meta.columns(plan.table, snapshot_id)
        return BackfillSummary(
            **plan.asked(),
            dataset=self.spec.name,
            run_id=self.run_id,
            version=version,
            table=plan.table,
            columns=plan.columns,
            base=plan.base,
            resumed_segments=resumed,
            strategies=plan.strategies,
            planned_and_actual=tuple(Comparison(quantity=q, planned=p, actual=a) for q, p, a in pairs),
            sequence_bytes_written=actual.bytes if sequences & set(columns) else 0,
            gate=gate,
            docs=docs,
            seconds=self.seconds,
            hints=() if touched else ("no row is affected; nothing was published",),
        )
