"""Late labels: (key, label, time) rows that arrive hours or days later, out of order and repeated.

The newest by label time wins, also over what earlier runs merged: the table ``label_times`` remembers the time of each
merged label, so that an older row arriving later changes nothing.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from dedup_storage.dataset.backfill.parts import MOST_SEGMENTS
from dedup_storage.dataset.backfill.plan import BackfillPlan
from dedup_storage.dataset.backfill.request import Affected, Change, Strategy
from dedup_storage.dataset.backfill.run import Backfill, Progress
from dedup_storage.dataset.backfill.summary import BackfillSummary
from dedup_storage.dataset.backfill.target import find_target
from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.dataset.labels.sorting import LabelMerge, LateLabels, require_label, sort_out
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.protocol import Run
from dedup_storage.lake.publishing import require_same
from dedup_storage.lake.requests import Request
from dedup_storage.layout import DatasetSpec
from dedup_storage.spark.digests import rows_digest
from dedup_storage.spark.errors import translated

__all__ = ["LateLabelsPlan", "LateLabelsSummary", "merge_labels", "plan_labels"]

_NOTHING = dict.fromkeys(("input_rows", "superseded_rows", "stale_rows", "unknown_rows", "merged_rows"), 0)


class _LateRows(BaseModel):
    """Late rows by what becomes of them.

    Attributes:
        input_rows: Late rows.
        nan_rows: Late rows whose label is NaN, which is no label: they change nothing.
        superseded_rows: Late rows older than another one of the same impression, or repeated.
        stale_rows: Newest late rows of their impressions that are not newer than what was merged before.
        unknown_rows: Rows of impressions that the dataset does not have, set aside in ``labels_unknown``.
        merged_rows: Rows that win; those whose label is the stored one already are among them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_rows: int
    nan_rows: int = 0
    superseded_rows: int
    stale_rows: int
    unknown_rows: int
    merged_rows: int


class LateLabelsPlan(_LateRows):
    """What a merge of late labels would do.

    Attributes:
        backfill: The backfill that would write them.
    """

    backfill: BackfillPlan


class LateLabelsSummary(_LateRows):
    """What a merge of late labels did.

    Attributes:
        backfill: The backfill that wrote them.
    """

    backfill: BackfillSummary

    @property
    def already_published(self) -> bool:
        """Whether the run id was published before; nothing was done now."""
        return self.backfill.already_published

    @property
    def version(self) -> int:
        """The version that holds the result."""
        return self.backfill.version


class _Sorting:
    """Sorts late labels out against each version that an attempt of the backfill starts from.

    What wins, and at which position it lies, holds for that version alone: another merge may bring a newer label of the
    same impression, a replacement other impressions at the same positions.

    Args:
        handle: The dataset.
        late: The rows.
    """

    def __init__(self, handle: Handle, late: LateLabels) -> None:
        self.handle, self.late = handle, late
        self.merge: LabelMerge | None = None

    def change(self, cut: Cut) -> Change:
        """The replacement rows for a version."""
        self.release()
        self.merge = sort_out(cut, self.late)
        return Change(rows=self.merge.replacement(cut.spec), columns=(self.late.label,))

    def backfill(
        self,
        *,
        run_id: str,
        request: Request | None,
        strategy: Strategy | str | None,
        gate: bool,
        part_segments: int = MOST_SEGMENTS,
        progress: Progress | None = None,
    ) -> Backfill:
        """The backfill that writes the labels, and the rows beside them, as one version; see ``Backfill``."""
        return Backfill(
            self.handle,
            Change(rows=self.late.rows, columns=(self.late.label,)),
            Affected(),
            run_id=run_id,
            job="late-labels",
            beside=self.stage,
            strategy=strategy,
            gate=gate,
            part_segments=part_segments,
            progress=progress,
            request=request,
            against=self.change,
        )

    def stage(self, run: Run) -> list[str]:
        """See ``LabelMerge.stage``; nothing where the run was found published."""
        return [] if self.merge is None else self.merge.stage(self.handle, run)

    @property
    def counts(self) -> dict[str, int]:
        """Counts of ``LateLabelsSummary``; nothing was sorted out where the run was found published."""
        return _NOTHING if self.merge is None else self.merge.counts

    def release(self) -> None:
        """Free what is persisted."""
        if self.merge is not None:
            self.merge.release()


def merge_labels(
    handle: Handle,
    late: LateLabels,
    *,
    run_id: str,
    strategy: Strategy | str | None = None,
    gate: bool = True,
    part_segments: int = MOST_SEGMENTS,
    progress: Progress | None = None,
) -> LateLabelsSummary:
    """Merge late labels into the impressions, as one version; the sequences are not touched.

    Args:
        handle: The dataset.
        late: The rows.
        run_id: The run; publishing it twice changes nothing.
        strategy, gate, part_segments, progress: As for ``Backfill``.

    Raises:
        UsageError: the rows cannot be used; nothing was changed.
        ConflictError: another run changed the same segments first.
    """
    tables, spec = handle.tables, handle.spec
    with translated():
        meta = tables.settle(spec)
        request = _asked(spec, late)
        done = require_same(meta, request.text, run_id)
        if done is not None:
            # Killed between publication and clean-up, the run left its branch behind.
            tables.branch(spec.name, find_target(meta, meta.current, [late.label]).table, run_id).drop()
            summary = BackfillSummary(dataset=spec.name, run_id=run_id, version=done, already_published=True)
            return LateLabelsSummary(**_NOTHING, backfill=summary)
        require_label(meta.spec, late.label)
        sorting = _Sorting(handle, late)
        try:
            backfill = sorting.backfill(
                run_id=run_id, request=request, strategy=strategy, gate=gate, part_segments=part_segments,
                progress=progress,
            ).run()  # fmt: skip
            return LateLabelsSummary(**sorting.counts, backfill=backfill)
        finally:
            sorting.release()


def plan_labels(
    handle: Handle,
    late: LateLabels,
    *,
    run_id: str | None = None,
    strategy: Strategy | str | None = None,
    gate: bool = True,
) -> LateLabelsPlan:
    """What ``merge_labels`` would do to the current version; nothing is written.

    Args:
        handle: The dataset.
        late: The rows.
        run_id: The run, where it has a name: one that is published would do nothing, and one that stopped goes on.
        strategy, gate: As for ``Backfill``.

    Raises:
        UsageError: the rows cannot be used, or the run is one with other labels.
    """
    with translated():
        meta = handle.metadata()
        require_label(meta.spec, late.label)
        sorting = _Sorting(handle, late)
        try:
            asked = None if run_id is None else _asked(handle.spec, late)
            backfill = sorting.backfill(run_id=run_id or "plan", request=asked, strategy=strategy, gate=gate)
            plan = backfill.plan(named=run_id is not None)
            return LateLabelsPlan(**sorting.counts, backfill=plan)
        finally:
            sorting.release()


def _asked(spec: DatasetSpec, late: LateLabels) -> Request:
    """What a merge is asked to do; its rows are read once."""
    own = [c for c in (*spec.request_key, spec.position_column, spec.schema_.item) if c in late.rows.columns]
    told = [c for c in (*own, late.label, late.time) if c in late.rows.columns]
    rows = move_to(run_session(late.rows.sparkSession), late.rows)
    return Request.of("late-labels", label=late.label).with_texts(late_labels=rows_digest(rows, set(told)))
