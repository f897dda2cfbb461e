"""``dedup-storage maintain``: lists laid anew, compaction, events that nothing refers to, expiry, orphans."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dedup_storage.cli.options import DatasetOption, RunIdOption
from dedup_storage.cli.runtime import Job, job
from dedup_storage.schema import check_name

if TYPE_CHECKING:
    from dedup_storage.lake.history import DatasetMetadata

__all__ = ["maintain"]


class _Step(StrEnum):
    RUNS = "runs"
    COMPACT = "compact"
    EVENTS = "events"
    EXPIRE = "expire"
    ORPHANS = "orphans"


@job
def maintain(
    job: Job,
    dataset: DatasetOption,
    only: Annotated[
        list[_Step] | None,
        typer.Option(
            help="Take this step alone; repeatable. Without it all are taken but runs. Limits of other steps are "
            "refused."
        ),
    ] = None,
    keep_versions: Annotated[int, typer.Option(min=1, help="Newest versions that stay (step expire).")] = 10,
    keep_days: Annotated[float, typer.Option(min=0, help="Versions of so many last days stay (expire).")] = 7,
    orphan_days: Annotated[
        float, typer.Option(min=1, help="Staged data and files that nothing names stay so long (expire, orphans).")
    ] = 3,
    abandoned_days: Annotated[
        float, typer.Option(min=0, help="Parts of runs that stopped and did nothing for so long go (expire).")
    ] = 7,
    hidden_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of rows hidden by deletion vectors that is decay (compact)."),
    ] = 0.02,
    unreferenced_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of events that no kept version refers to, which is decay (events)."),
    ] = 0.02,
    runs_share: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="Share of runs of lists that another order of events must spare (runs)."),
    ] = 0.5,
    bundle_from: Annotated[
        int | None, typer.Option(min=2, help="Bundle a grain's feature groups once so many tables hold them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, and change nothing.")] = False,
    run_id: RunIdOption = None,
) -> None:
    """Restore the order of decayed segments, drop events that nothing refers to, expire versions, remove orphans; where
    asked for, lay lists of many runs anew."""
    check_name(dataset, "dataset name")
    # Runs of all requests are read for it, so it is asked for, where the report tells of many.
    steps = set(only or (step for step in _Step if step is not _Step.RUNS))
    # What would change nothing is told before Spark starts.
    from dedup_storage.dataset.upkeep import Limits, Policy
    from dedup_storage.dataset.upkeep.steps import idle_steps, refuse_idle_limits

    limits = Limits(hidden_share=hidden_share, unreferenced_share=unreferenced_share, runs_share=runs_share)
    policy = Policy(
        keep_versions=keep_versions, keep_days=keep_days, orphan_days=orphan_days, abandoned_days=abandoned_days
    )
    refuse_idle_limits(steps, limits, policy)

    def check(meta: DatasetMetadata) -> None:
        for told in idle_steps(meta.spec, only or ()):
            job.note(told)

    with job.dataset(dataset, check=check) as target, job.step(f"Maintaining {dataset}", target.spark):
        summary = target.maintain(
            run_id,
            limits=limits,
            policy=policy,
            runs=_Step.RUNS in steps,
            compact=_Step.COMPACT in steps,
            events=_Step.EVENTS in steps,
            expire=_Step.EXPIRE in steps,
            orphans=_Step.ORPHANS in steps,
            bundle_from=bundle_from,
            dry_run=dry_run,
        )
    title = f"{'Would maintain' if dry_run else 'Maintained'} {dataset}"
    if summary.already_published:
        title += f": compacted already, as version {summary.compacted}, no more of that"
    job.shown(title, summary, summary)
