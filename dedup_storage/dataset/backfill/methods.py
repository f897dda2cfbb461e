"""The methods of ``Dataset`` that change values of stored rows, and keep the stored rows in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill.plan import BackfillPlan
from dedup_storage.dataset.backfill.request import Affected, Change, Strategy
from dedup_storage.dataset.backfill.run import Backfill
from dedup_storage.dataset.backfill.summary import BackfillSummary
from dedup_storage.dataset.labels.merge import LateLabels, LateLabelsSummary, merge_labels
from dedup_storage.dataset.samples.affected import affected_by_sample
from dedup_storage.dataset.upkeep import ForgetSummary, MaintainSummary, Maintenance
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.lake.runs import named_run
from dedup_storage.layout import DatasetSpec
from dedup_storage.sources.named import text_frame
from dedup_storage.spark.errors import translated

if TYPE_CHECKING:
    from dedup_storage.dataset.facade import Dataset

__all__ = ["UpkeepMethods"]


class UpkeepMethods:
    """Backfills, late labels, maintenance and erasure of a dataset."""

    spark: SparkSession
    settings: Settings
    spec: DatasetSpec
    tables: TableFormat

    def backfill(
        self,
        change: Change,
        affected: Affected | None = None,
        *,
        run_id: str | None = None,
        strategy: Strategy | None = None,
        gate: bool = True,
        **options: Any,
    ) -> BackfillSummary:
        """Recompute columns for affected rows, and publish the result as one version.

        Args:
            change: What to recompute: expressions, a function, or replacement rows.
            affected: For whom; everyone when left out.
            run_id: Name of the run. A run that was stopped goes on; one that is published changes nothing.
            strategy: The same for all segments; ``None`` takes the cheapest for each.
            gate: Audit the rewritten segments before publication.
            options: Of ``dedup_storage.dataset.backfill.Backfill``, such as ``part_segments`` and ``progress``.

        Raises:
            UsageError: what to do is not clear or cannot be done; nothing was changed.
            QualityGateError: the gate refused; nothing was published.
            ConflictError: another run changed the same segments first; run again.
        """
        run_id = named_run(run_id, "backfill")
        return self._backfill(change, affected, run_id=run_id, strategy=strategy, gate=gate, **options).run()

    def plan_backfill(
        self, change: Change, affected: Affected | None = None, strategy: Strategy | None = None
    ) -> BackfillPlan:
        """What ``backfill`` would rewrite and what it would cost; nothing is written."""
        return self._backfill(change, affected, run_id="plan", strategy=strategy).plan()

    def merge_labels(
        self, rows: DataFrame, label: str, time: str, run_id: str | None = None, **options: Any
    ) -> LateLabelsSummary:
        """Merge labels that arrived late; the newest by label time wins, whatever the order of arrival.

        Args:
            rows: User and request columns, position or item, label, time.
            label: The label's column.
            time: The column of the label's event time.
            run_id: Name of the run; publishing it twice changes nothing.
            options: Of ``dedup_storage.dataset.backfill.Backfill``.

        Raises:
            UsageError: the rows cannot be used; nothing was changed.
            ConflictError: another run changed the same segments first; run again.
        """
        self.tables.require("merging late labels", self.spec)
        late, run_id = LateLabels(rows, label, time), named_run(run_id, "late-labels")
        return merge_labels(self.spark, self.tables, self.settings, self.spec, late, run_id=run_id, **options)

    def maintain(self, run_id: str | None = None, **options: Any) -> MaintainSummary:
        """Restore the order of decayed segments, expire versions by policy, remove orphans.

        Args:
            run_id: Name of the run; the version of its compaction.
            options: Of ``dedup_storage.dataset.upkeep.Maintenance``: ``limits``, ``policy``, ``dry_run`` and more.
        """
        run_id = named_run(run_id, "maintain")
        if self.tables.name == "delta":
            return self._maintain_delta(run_id, **options)
        self.tables.require("maintenance", self.spec)
        return Maintenance(self.spark, self.tables, self.settings, self.spec, run_id=run_id, **options).run()

    def _maintain_delta(self, run_id: str, **options: Any) -> MaintainSummary:
        from dedup_storage.lake.delta.format import DeltaFormat
        from dedup_storage.lake.delta.maintain import DeltaMaintenance

        if self.spec.adopted:
            # Versions expire all the same.
            options["compact"] = False
        tables = cast(DeltaFormat, self.tables)
        return DeltaMaintenance(tables, self.settings, self.spec, run_id=run_id, **options).run()

    def forget_users(
        self, users: Sequence[int | str] | DataFrame, run_id: str | None = None, *, dry_run: bool = False
    ) -> ForgetSummary:
        """Erase users from every table and every kept version, and scan the files for them.

        Args:
            users: Ids, or a frame with the user column (its first column when it has only one).
            run_id: Name of the run; running it again finishes what is left.
            dry_run: Count, change nothing.

        Raises:
            UsageError: no user is given, or a run is at work on the dataset.
            ConflictError: another run changed the same segments first; run again.
        """
        self.tables.require("erasing users", self.spec)
        run_id = named_run(run_id, "forget-user")
        with translated():
            if not isinstance(users, DataFrame):
                users = text_frame(self.spark, self.spec.schema_.user, map(str, users))
            if self.tables.name == "delta":
                from dedup_storage.lake.delta.forget import DeltaForgetting
                from dedup_storage.lake.delta.format import DeltaFormat

                tables = cast(DeltaFormat, self.tables)
                mine = (self.spark, tables, self.settings, self.spec, users)
                return DeltaForgetting(*mine, run_id=run_id, dry_run=dry_run).run()
            from dedup_storage.lake.iceberg.forget import Forgetting

            given = (self.spark, self.tables, self.settings, self.spec, users)
            return Forgetting(*given, run_id=run_id, dry_run=dry_run).run()

    def _backfill(self, change: Change, affected: Affected | None, **options: Any) -> Backfill:
        self.tables.require("a backfill", self.spec)
        who = affected or Affected()
        if who.sample is not None:
            who = affected_by_sample(cast("Dataset", self), who)
        return Backfill(self.spark, self.tables, self.settings, self.spec, change, who, **options)
