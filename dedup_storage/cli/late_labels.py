"""``dedup-storage late-labels``: labels that arrived after their impressions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dedup_storage.cli.backfill import shown_plan
from dedup_storage.cli.options import DatasetOption, DryRunOption, GateOption, RunIdOption
from dedup_storage.cli.outdated import with_outdated
from dedup_storage.cli.progress import part_progress
from dedup_storage.cli.runtime import Job, job
from dedup_storage.schema import check_name

if TYPE_CHECKING:
    from dedup_storage.lake.history import DatasetMetadata

__all__ = ["late_labels"]


@job
def late_labels(
    job: Job,
    source: Annotated[str, typer.Argument(help="The late rows: a table's name or a path.")],
    dataset: DatasetOption,
    label: Annotated[str, typer.Option(help="The label's column.")],
    time: Annotated[str, typer.Option(help="The column with the time of the label.")],
    dry_run: DryRunOption = False,
    gate: GateOption = True,
    run_id: RunIdOption = None,
) -> None:
    """Merge late labels into the impressions; the newest by its own time wins."""
    check_name(dataset, "dataset name")
    with job.dataset(dataset, source, gate=gate, check=lambda meta: _refuse_unknown(meta, label)) as target:
        from dedup_storage.sources.named import read_frame

        keys = (*target.schema.request_key, target.schema.item)
        if dry_run:
            with job.step("Planning", target.spark):
                rows = read_frame(target.spark, source, keys=keys)
                plan = target.plan_labels(rows, label, time, run_id, gate=gate)
            shown = plan.model_dump(mode="json") | {"backfill": shown_plan(plan.backfill)}
            job.shown(f"Would merge late labels into {dataset}", shown, plan)
            return
        with part_progress() as progress:
            summary = target.merge_labels(
                read_frame(target.spark, source, keys=keys), label, time, run_id=run_id, gate=gate, progress=progress
            )
    written = with_outdated(job, dataset, summary.backfill)
    job.done(f"Merged late labels into {dataset}", summary.model_copy(update={"backfill": written}))


def _refuse_unknown(meta: DatasetMetadata, label: str) -> None:
    from dedup_storage.dataset.labels.sorting import require_label

    require_label(meta.spec, label)
