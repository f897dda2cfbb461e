"""Another number of user buckets for a dataset, in place, as one published version.

Every table of the newest version is read by the segments it lies in and written into those of the new number; its rows
stay the same, and so do keys, feature groups and times of labels. The version is a barrier. Its description has the
new number, decided in the same step as the version (``DatasetMetadata.spec_of`` gives any version's), and what would
carry a bucket's number across it is refused (``refuse_overlap``), taken for all buckets (``changed_cells``), or says
of which count it is (``Sample.of_buckets``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from dedup_storage.dataset.backfill.other_parts import refuse_other_parts
from dedup_storage.dataset.backfill.target import table_of
from dedup_storage.dataset.convert.rebucket_summary import RebucketSummary, TableMoved
from dedup_storage.dataset.features.window import EVERYTHING
from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.dataset.samples.store import SampleStore
from dedup_storage.dataset.upkeep.receipt import ErasureRecord
from dedup_storage.errors import ConflictError, StorageError, UsageError
from dedup_storage.faults import reached
from dedup_storage.lake.facts import BUCKETS, ROWS_KEPT
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import Run, Staged
from dedup_storage.lake.publishing import require_same
from dedup_storage.lake.requests import Request
from dedup_storage.lake.runs import new_attempt, pins_conversion
from dedup_storage.lake.segments import REBUCKET
from dedup_storage.lake.staging import staging
from dedup_storage.layout import TableRole, TableSpec
from dedup_storage.spark.errors import translated
from dedup_storage.spark.steps import TimedSteps

__all__ = ["Rebucket"]

_HINTS = (
    "Versions of before stay readable and cannot become the newest again; erase users once they have expired.",
    "Named samples keep their users; refresh them so that files are left out by the new buckets.",
)


class Rebucket(TimedSteps):
    """Gives one dataset another number of user buckets, once.

    Args:
        handle: The dataset, as it was opened at whatever time.
        buckets: The number wanted.
        run_id: The run; publishing it twice changes nothing.
        dry_run: Do every check, say what would be written, and change nothing.
    """

    def __init__(self, handle: Handle, buckets: int, *, run_id: str, dry_run: bool = False) -> None:
        if buckets < 1:
            raise UsageError("a dataset has user buckets", expected="1 or more", got=str(buckets))
        self.handle = handle.for_run()
        self.tables, self.buckets, self.run_id, self.dry_run = self.handle.tables, buckets, run_id, dry_run
        self.request = Request.of(REBUCKET, buckets=buckets)
        self.seconds: dict[str, float] = {}

    def run(self) -> RebucketSummary:
        """Do it.

        Raises:
            UsageError: the dataset cannot get other buckets as it is; names why, and what to do first.
            ConflictError: another version was published meanwhile; run again.
            StorageError: a table would not have the rows that it had; nothing is published.
        """
        with translated():
            meta = self._settled()
            self.handle = replace(self.handle, spec=meta.spec)
            done = require_same(meta, self.request.text, self.run_id)
            if done is not None:
                spec, before = meta.spec_of(done), meta.spec_of(meta.parent(done))
                return self._summary(meta, done, before.buckets, spec.buckets).model_copy(
                    update={"already_published": True}
                )
            self.handle.require("another number of buckets")
            cut = Cut(self.handle, meta, meta.resolve(None))
            if meta.spec.buckets == self.buckets:
                found = self._summary(meta, cut.version, self.buckets, self.buckets)
                return found.model_copy(update={"unchanged": True})
            self._refuse(meta)
            if self.dry_run:
                totals = {name: meta.totals(name, snapshot) for name, snapshot in cut.snapshots.items()}
                moved = (TableMoved(table=n, rows=t.rows, files=t.files, bytes=t.bytes) for n, t in totals.items())
                return self._summary(meta, cut.version, meta.spec.buckets, self.buckets, moved)
            # Beyond what is refused: this publishes a version where other tools compacted files.
            meta = self.tables.take_in(meta.spec, meta)
            return self._moved(Cut(self.handle, meta, meta.resolve(None)))

    def _settled(self) -> DatasetMetadata:
        """The tables once what others decided is complete; that may be this very change, by a run that was killed."""
        meta = self.tables.metadata(self.handle.name)
        if self.dry_run:
            return meta
        coming = meta.described.get(meta.pending or 0, meta.spec)
        return self.tables.settle(coming)

    # -- what it does not take across -------------------------------------------------------------------------------

    def _refuse(self, meta: DatasetMetadata) -> None:
        refuse_other_parts(self.tables, meta, lambda: self.request, self.run_id)
        self._refuse_busy(meta)
        name = meta.spec.name
        whole = [sample.name for sample in SampleStore(self.handle).list() if sample.spec.buckets is not None]
        if whole:
            raise UsageError(
                f"the dataset {name} has samples of whole user buckets, which are other users in {self.buckets} "
                f"buckets: {', '.join(whole)}",
                expected="samples by shares, counts or sizes, which keep their users",
                fix=f"Nothing was changed. Drop them (dedup-storage sample drop NAME --dataset {name}), and make them "
                "again afterwards.",
            )

    def _refuse_busy(self, meta: DatasetMetadata) -> None:
        """What others have staged, or finished in parts, is in the former buckets, as is what a conversion
        reads; an erasure looks into them."""
        name = meta.spec.name
        self.tables.status(name).require_alone(self.run_id)
        kept = ((label, number) for number in meta.version_numbers for label in meta.pins(number))
        pins = [f"{label} (version {number})" for label, number in kept if pins_conversion(label)]
        if pins:
            raise UsageError(
                f"a conversion of {name} is not finished: {', '.join(pins)}",
                fix="Nothing was changed. Finish it: dedup-storage convert with the same target and run id; or, where "
                f"nobody will, dedup-storage versions unpin LABEL --dataset {name}.",
            )
        _refuse_erasure(meta)

    # -- the version ------------------------------------------------------------------------------------------------

    def _moved(self, cut: Cut) -> RebucketSummary:
        meta, spec = cut.meta, cut.spec.model_copy(update={"buckets": self.buckets})
        self._say_counts(cut)
        run = Run(
            run_id=self.run_id,
            job=REBUCKET,
            attempt=new_attempt(self.run_id),
            base=cut.version,
            replaced=EVERYTHING.ranges,
            dates=None,
            facts={"mode": REBUCKET, **self.request.facts},
            table_facts={name: {ROWS_KEPT: "true", BUCKETS: str(self.buckets)} for name in cut.snapshots},
            described=spec,
        )
        with staging(self.tables, spec, run) as listed:
            # The anchor last: what is staged of it says what the version is.
            for name in (*(n for n in cut.snapshots if n != spec.anchor.name), spec.anchor.name):
                with self.timed("stage"):
                    staged = self.tables.stage(spec, _table(cut, name), cut.stored(name), run)
                listed.append(staged)
                self._require_rows(cut, staged)
                reached(f"rebucket:staged-{name}")
            # Runs that began meanwhile publish no more than this one lets them; an erasure makes kept versions anew.
            _refuse_erasure(self.tables.metadata(spec.name))
        reached("rebucket:staged")
        with self.timed("publish"):
            version = self.tables.publish(cut.spec, run, list(cut.snapshots), _refuse_newer(cut.version))
        reached("rebucket:published")
        meta = self.tables.metadata(spec.name)
        moved = (TableMoved(table=s.table, rows=s.rows, files=s.files, bytes=s.bytes) for s in listed)
        return self._summary(meta, version, cut.spec.buckets, self.buckets, moved)

    def _say_counts(self, cut: Cut) -> None:
        """Let samples of former releases say of which count the buckets are that their users lie in."""
        store = SampleStore(self.handle)
        for sample in store.list():
            if sample.chosen_buckets and sample.of_buckets is None and store.find(sample.name) == sample:
                # One that was made anew or dropped since it was listed says so itself, or is gone.
                store.save(sample.model_copy(update={"of_buckets": cut.spec.buckets}))

    def _require_rows(self, cut: Cut, staged: Staged) -> None:
        wanted = cut.meta.totals(staged.table, cut.snapshots[staged.table]).rows
        if staged.rows != wanted:
            raise StorageError(
                f"the table {cut.spec.name}.{staged.table} would not have the rows that it has",
                expected=f"{wanted:,} rows",
                got=f"{staged.rows:,}",
                fix="Nothing was published. Please report it.",
            )

    def _summary(
        self, meta: DatasetMetadata, version: int, before: int, after: int, tables: Iterable[TableMoved] = ()
    ) -> RebucketSummary:
        former = [number for number in meta.version_numbers if meta.spec_of(number).buckets != after]
        return RebucketSummary(
            dataset=meta.spec.name,
            run_id=self.run_id,
            version=version,
            before=before,
            buckets=after,
            dry_run=self.dry_run,
            tables=tuple(tables),
            kept_versions=tuple(former),
            hints=_HINTS if former and before != after else (),
            seconds=self.seconds,
        )


def _table(cut: Cut, name: str) -> TableSpec:
    """A table as the version has it, sorted by its key."""
    target, role = table_of(cut.meta, cut.version, name), TableRole(str(cut.meta.role(name)))
    order = tuple(key for key in target.keys if key in target.columns)
    return TableSpec(role=role, name=name, columns=target.columns, sort_columns=order)


def _refuse_newer(base: int) -> Callable[[DatasetMetadata], None]:
    """What was read is no longer the newest version, whatever the other one did."""

    def refuse(now: DatasetMetadata) -> None:
        raise ConflictError(
            f"version {now.current} of {now.spec.name} was published while its buckets were changed",
            expected=f"version {base} to be the newest",
            fix="Nothing was published. Run the job again, when no other run writes.",
        )

    return refuse


def _refuse_erasure(meta: DatasetMetadata) -> None:
    stopped = ErasureRecord.stopped(meta)
    if stopped:
        raise UsageError(
            f"an erasure of {meta.spec.name} is not done: {', '.join(stopped)}",
            fix="Nothing was changed. Finish it: dedup-storage forget-user with the same users and run id.",
        )
