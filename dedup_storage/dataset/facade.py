"""Dataset: everything that can be done with one, each method handed on to its room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Backfill, BackfillPlan, BackfillSummary, Change, Strategy
from dedup_storage.dataset.backfill.parts import MOST_SEGMENTS
from dedup_storage.dataset.backfill.run import Progress
from dedup_storage.dataset.convert import Conversion, ConvertSummary, Rebucket, RebucketSummary
from dedup_storage.dataset.convert.run import Progress as ConvertProgress
from dedup_storage.dataset.features.accessor import Features
from dedup_storage.dataset.former import former_method
from dedup_storage.dataset.handle import Handle, open_handle
from dedup_storage.dataset.labels import LateLabels, LateLabelsPlan, LateLabelsSummary, merge_labels, plan_labels
from dedup_storage.dataset.lineage import Accounts, run_told
from dedup_storage.dataset.readable import ReadableDataset
from dedup_storage.dataset.samples.accessor import Samples
from dedup_storage.dataset.samples.affected import affected_by_sample
from dedup_storage.dataset.upkeep import ForgetSummary, Limits, MaintainSummary, Policy
from dedup_storage.dataset.upkeep.runs import forget_users, maintain
from dedup_storage.dataset.versions.accessor import Publication
from dedup_storage.dataset.versions.publish import pin, rollback, unpin
from dedup_storage.dataset.write.create import create_dataset
from dedup_storage.dataset.write.policies import Mode, OnDuplicates, OnInconstant
from dedup_storage.dataset.write.run import write_log
from dedup_storage.dataset.write.summary import WriteSummary
from dedup_storage.dataset.write.told import WRITE, log_sources
from dedup_storage.lake.history import VersionInfo
from dedup_storage.lake.runs import named_run
from dedup_storage.layout import EpochGrain, Layout
from dedup_storage.schema import DateGrain, LogSchema, check_name
from dedup_storage.sources.absent import ColumnChoice
from dedup_storage.sources.raw import RawLog
from dedup_storage.spark.errors import translated

__all__ = ["Dataset"]


class Dataset(ReadableDataset):
    """One logically flat training log, stored once per request.

    Open it by ``connect(settings).open(name)``, or here with a session at hand.

    Attributes:
        handle: What every room takes: session, settings, description, table format.
        inspect: What it is made of, from metadata: ``files``, ``segments``, ``history``.
        publication: What is under way on it, and the way out: ``status``, ``abandon``, ``abandon_run``.
        features: Feature groups: ``features()`` lists them; ``add``, ``refresh``, ``rename``, ``drop``, ``promote``,
            ``bundle``.
        samples: Named samples: ``samples()`` lists them; ``make``, ``split``, ``refresh``, ``report`` and more.

    Example:
        >>> ds = Dataset.open(spark, settings, "clicks")      # doctest: +SKIP
        >>> ds.write(RawLog.read(spark, "s3://logs/day=1", schema=ds.schema), run_id="day-1")  # doctest: +SKIP
        >>> ds.logs().count()                                 # doctest: +SKIP
    """

    def _take(self, handle: Handle) -> None:
        super()._take(handle)
        self.features, self.samples = Features(handle), Samples(handle)
        self.publication = Publication(handle)

    if not TYPE_CHECKING:
        __getattr__ = former_method

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
        epoch_grain: EpochGrain | str | None = None,
    ) -> Dataset:
        """Create a dataset for logs like ``raw``, or open it when it is there and agrees.

        Args:
            spark, settings, name: Session, settings, and the dataset's name.
            schema: Meaning of the columns; grains left open are detected from ``raw``.
            raw: A log: its columns, types and size decide what is not given.
            layout: ``split`` (default), ``flat``, or ``user`` (each event of a user stored once).
            date_grain, buckets: Segments; from the schema, else proposed from the size of ``raw``.
            epoch_grain: Layout ``user``: epochs by which events are partitioned, ``month`` or ``none``; else proposed.

        Raises:
            DatasetExistsError: it is there and differs in what was given.
            SchemaError: the schema does not fit the log.
            UsageError: epochs for a dataset that has none.
        """
        handle = create_dataset(
            spark, settings, name, schema, raw, layout=layout, date_grain=date_grain, buckets=buckets,
            epoch_grain=epoch_grain,
        )  # fmt: skip
        return cls(handle)

    @classmethod
    def open(cls, spark: SparkSession, settings: Settings, name: str) -> Dataset:
        """Open a dataset by name.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
        """
        return cls(open_handle(spark, settings, name))

    def write(
        self,
        raw: RawLog,
        *,
        run_id: str | None = None,
        mode: Mode | str = Mode.APPEND,
        on_inconstant: OnInconstant | str = OnInconstant.REFUSE,
        on_duplicates: OnDuplicates | str = OnDuplicates.REFUSE,
        gate: bool = True,
        add_columns: ColumnChoice = None,
        fill_columns: ColumnChoice = None,
        dry_run: bool = False,
    ) -> WriteSummary:
        """Write a log: collapse, stage, audit, publish as one version.

        Args:
            raw: The log.
            run_id: Name of the run; a run that is published already changes nothing, and another log or other options
                under its name are refused. Random when not given.
            mode: ``append``, or ``replace`` the log's event dates as a whole.
            on_inconstant: Requests whose request-grain columns differ: ``refuse``, keep the ``first`` row's values,
                or ``quarantine`` them.
            on_duplicates: Keys that occur twice or are in the dataset already: ``refuse`` or ``keep-one``.
            gate: Audit the staged rows before publication.
            add_columns: Columns of the log that the dataset gets, by name, or ``all``; null in the rows that are there,
                and in older versions there are none.
            fill_columns: Columns of the dataset that the log may lack, by name, or ``all``; null in the log's rows.
            dry_run: Look at columns, keys and dates, say what would be written, and change nothing.

        Raises:
            SchemaError: the log has other columns, and it was not said what becomes of them.
            InputError: the log cannot be read or breaks its contract; nothing was changed.
            QualityGateError: the gate refused; nothing was published.
            ConflictError: another run changed the same event dates first; run again.
        """
        sources = log_sources(self.settings, raw.origins)
        summary = run_told(
            self.handle, WRITE, run_id,
            lambda: write_log(
                self.handle, raw, run_id=run_id, mode=mode, on_inconstant=on_inconstant, on_duplicates=on_duplicates,
                gate=gate, add_columns=add_columns, fill_columns=fill_columns, dry_run=dry_run,
            ),
            lambda accounts, done: accounts.write(done, sources),
            sources=sources, dry_run=dry_run,
        )  # fmt: skip
        if summary.added_columns and not dry_run:
            self._take(open_handle(self.spark, self.settings, self.name))
        return summary

    # -- changing values ----------------------------------------------------------------------------------------

    def backfill(
        self,
        change: Change,
        affected: Affected | None = None,
        *,
        run_id: str | None = None,
        strategy: Strategy | str | None = None,
        gate: bool = True,
        part_segments: int = MOST_SEGMENTS,
        progress: Progress | None = None,
    ) -> BackfillSummary:
        """Recompute columns for affected rows, and publish the result as one version.

        Args:
            change: What to recompute: expressions, a function, or replacement rows.
            affected: For whom; everyone when left out.
            run_id: Name of the run. A run that was stopped goes on; one that is published changes nothing. Another
                request under its name is refused.
            strategy: The same for all segments; ``None`` takes the cheapest for each.
            gate: Audit the rewritten segments before publication.
            part_segments: Most segments of one commit; what is lost when the run is killed.
            progress: Called after each part with segments done, all segments, bytes done, all bytes.

        Raises:
            UsageError: what to do is not clear or cannot be done; nothing was changed.
            QualityGateError: the gate refused; nothing was published.
            ConflictError: another run changed the same segments first; run again.
        """
        named = named_run(run_id, "backfill")
        return run_told(
            self.handle, "backfill", named,
            lambda: self._backfill(change, affected, named, strategy, gate, part_segments, progress).run(),
            Accounts.rewrite,
        )  # fmt: skip

    def plan_backfill(
        self,
        change: Change,
        affected: Affected | None = None,
        strategy: Strategy | str | None = None,
        *,
        run_id: str | None = None,
        gate: bool = True,
    ) -> BackfillPlan:
        """What ``backfill`` would rewrite and what it would cost; nothing is written.

        Args:
            change, affected, strategy, gate: As for ``backfill``.
            run_id: Name of the run, where it has one: whether it is published already, or goes on, is said.

        Raises:
            UsageError: what to do is not clear or cannot be done.
        """
        return self._backfill(change, affected, run_id or "plan", strategy, gate).plan(named=run_id is not None)

    def _backfill(
        self,
        change: Change,
        affected: Affected | None,
        run_id: str,
        strategy: Strategy | str | None,
        gate: bool = True,
        part_segments: int = MOST_SEGMENTS,
        progress: Progress | None = None,
    ) -> Backfill:
        self.handle.require("a backfill")
        selection = affected or Affected()
        if selection.sample is not None:
            selection = affected_by_sample(self.handle, selection)
        return Backfill(
            self.handle, change, selection, run_id=run_id, strategy=strategy, gate=gate, part_segments=part_segments,
            progress=progress,
        )  # fmt: skip

    def merge_labels(
        self,
        rows: DataFrame,
        label: str,
        time: str,
        run_id: str | None = None,
        *,
        strategy: Strategy | str | None = None,
        gate: bool = True,
        part_segments: int = MOST_SEGMENTS,
        progress: Progress | None = None,
    ) -> LateLabelsSummary:
        """Merge labels that arrived late; the newest by label time wins, whatever the order of arrival.

        Args:
            rows: User and request columns, position or item, label, time.
            label, time: Columns of the label, and of its event time.
            run_id: Name of the run; publishing it twice changes nothing, and other labels under its name are refused.
            strategy, gate, part_segments, progress: As for ``backfill``.

        Raises:
            UsageError: the rows cannot be used; nothing was changed.
            ConflictError: another run changed the same segments first; run again.
        """
        self.handle.require("merging late labels")
        named = named_run(run_id, "late-labels")
        return run_told(
            self.handle, "late-labels", named,
            lambda: merge_labels(
                self.handle, LateLabels(rows, label, time), run_id=named, strategy=strategy, gate=gate,
                part_segments=part_segments, progress=progress,
            ),
            lambda accounts, done: accounts.rewrite(done.backfill),
        )  # fmt: skip

    def plan_labels(
        self,
        rows: DataFrame,
        label: str,
        time: str,
        run_id: str | None = None,
        *,
        strategy: Strategy | str | None = None,
        gate: bool = True,
    ) -> LateLabelsPlan:
        """What ``merge_labels`` would change and rewrite; nothing is written.

        Args:
            rows, label, time, strategy, gate: As for ``merge_labels``.
            run_id: Name of the run, where it has one: whether it is published already, or goes on, is said.

        Raises:
            UsageError: the rows cannot be used.
        """
        self.handle.require("merging late labels")
        return plan_labels(self.handle, LateLabels(rows, label, time), run_id=run_id, strategy=strategy, gate=gate)

    # -- upkeep -------------------------------------------------------------------------------------------------

    def maintain(
        self,
        run_id: str | None = None,
        *,
        limits: Limits | None = None,
        policy: Policy | None = None,
        runs: bool = False,
        compact: bool = True,
        events: bool = True,
        expire: bool = True,
        orphans: bool = True,
        bundle_from: int | None = None,
        dry_run: bool = False,
    ) -> MaintainSummary:
        """Lay lists of many runs anew, restore the order of decayed segments, drop events that nothing refers to,
        expire versions by policy, remove orphans; bundle feature groups.

        Args:
            run_id: Name of the run; the version of its compaction.
            limits, policy: What counts as decayed; which versions stay.
            runs, compact, events, expire, orphans: Which steps to take; only in layout ``user`` there are lists to lay
                anew, which reads runs of all requests, and events to drop.
            bundle_from: Bundle a grain's feature groups once so many tables hold them; ``None`` leaves them.
            dry_run: Measure and tell, change nothing.
        """
        named = named_run(run_id, "maintain")
        return run_told(
            self.handle, "maintain", named,
            lambda: maintain(
                self.handle, named, limits=limits, policy=policy, runs=runs, compact=compact, events=events,
                expire=expire, orphans=orphans, bundle_from=bundle_from, dry_run=dry_run,
            ),
            Accounts.maintenance, dry_run=dry_run,
        )  # fmt: skip

    def forget_users(
        self, users: Sequence[int | str] | DataFrame, run_id: str | None = None, *, dry_run: bool = False
    ) -> ForgetSummary:
        """Erase users from every table and every kept version, and scan the files for them; gives the receipt.

        Args:
            users: Ids, or a frame with the user column (its first column when it has only one).
            run_id: Name of the run. A run that was stopped goes on; of one that is done the receipt is given again.
                Other users under its name are refused.
            dry_run: Count, change nothing.

        Raises:
            UsageError: no user is given, a run is at work on the dataset, or the run is done and some of the users are
                there again.
            ConflictError: another run changed the same segments first; run again.
        """
        named = named_run(run_id, "forget-user")
        return run_told(
            self.handle, "forget-user", named, lambda: forget_users(self.handle, users, named, dry_run=dry_run),
            Accounts.erasure, dry_run=dry_run,
        )  # fmt: skip

    def convert(
        self,
        name: str,
        *,
        format: str | None = None,
        run_id: str | None = None,
        layout: Layout | str | None = None,
        date_grain: DateGrain | str | None = None,
        buckets: int | None = None,
        epoch_grain: EpochGrain | str | None = None,
        version: int | None = None,
        drop_features: bool = False,
        progress: ConvertProgress | None = None,
        dry_run: bool = False,
    ) -> ConvertSummary:
        """Write one version into a new dataset of another layout, table format or segments.

        Feature groups and named samples come along where they can be kept exactly; the summary says what was left.

        Args:
            name, format: The dataset to write, and its table format; ``None`` keeps this one's.
            run_id: Name of the run. A run that was stopped goes on; one that is done verifies what is there.
            layout, date_grain, buckets: Of the new dataset; ``None`` keeps this one's.
            epoch_grain: Layout ``user``: epochs that events are partitioned by; ``None`` keeps this one's, or proposes.
            version: ``None`` takes the newest.
            drop_features: Leave the feature groups behind.
            progress: Called with parts done, all parts, bytes written, bytes of the source.
            dry_run: Tell what would be written, taken along and left; change nothing.

        Raises:
            UsageError: what is asked for cannot be done; nothing was changed.
            StorageError: a part differs from its source.
        """
        check_name(name, "dataset name")
        named = named_run(run_id, "convert")
        with translated():
            settings = self.settings.model_copy(update={"format": format or self.settings.format})
            conversion = Conversion(
                self.handle, settings, name, run_id=named, layout=layout, date_grain=date_grain, buckets=buckets,
                epoch_grain=epoch_grain, version=version, drop_features=drop_features, progress=progress,
            )  # fmt: skip
            return run_told(
                self.handle, "convert", named, conversion.plan if dry_run else conversion.run,
                lambda accounts, done: accounts.conversion(open_handle(self.spark, settings, name), done),
                subject=name, dry_run=dry_run,
            )  # fmt: skip

    def rebucket(self, buckets: int, run_id: str | None = None, *, dry_run: bool = False) -> RebucketSummary:
        """Give the dataset another number of user buckets, as a new version: every table is written anew once.

        Rows, feature groups, samples, history, pins and run ids stay; versions of before are read in their own buckets.

        Args:
            buckets: The number from now on.
            run_id: Name of the run; twice is once.
            dry_run: Say what would be written; change nothing.

        Raises:
            UsageError: runs are at work, a sample takes whole buckets, or the log was adopted; nothing was changed.
            ConflictError: another version was published meanwhile; run again.
        """
        named = named_run(run_id, "rebucket")
        work = Rebucket(self.handle, buckets, run_id=named, dry_run=dry_run).run
        done = run_told(self.handle, "rebucket", named, work, Accounts.rewrite, dry_run=dry_run)
        self._take(open_handle(self.spark, self.settings, self.name))
        return done

    # -- versions -----------------------------------------------------------------------------------------------

    def rollback(self, version: int, run_id: str | None = None) -> VersionInfo:
        """Publish an older version's content as the newest version.

        Raises:
            VersionNotFoundError: there is no such version.
        """
        named = named_run(run_id, "rollback")
        info = run_told(
            self.handle, "rollback", named, lambda: rollback(self.handle, version, named), Accounts.rollback
        )
        # An older version may have other columns.
        self._take(open_handle(self.spark, self.settings, self.name))
        return info

    def pin(self, version: int | None = None, label: str = "kept") -> dict[str, Any]:
        """Keep a version through expiry.

        Returns:
            What names the version for good, as plain values for a JSON file: dataset, version, snapshot ids.
        """
        return pin(self.handle, version, label)

    def unpin(self, label: str) -> None:
        """Let expiry have a pinned version again.

        Raises:
            VersionNotFoundError: no version is pinned under that label.
        """
        unpin(self.handle, label)
