"""Which feature groups are out of date, and what to do next about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from dedup_storage.cli.runtime import Job
    from dedup_storage.dataset.backfill.summary import BackfillSummary
    from dedup_storage.dataset.write.summary import WriteSummary
    from dedup_storage.lake.cells import Cell
    from dedup_storage.lake.groups import FeatureGroup

__all__ = ["stale_groups", "with_outdated"]

Written = TypeVar("Written", "WriteSummary", "BackfillSummary")


def stale_groups(
    job: Job, dataset: str, version: int | None = None, name: str | None = None
) -> tuple[dict[str, FeatureGroup], dict[str, set[Cell]]]:
    """The groups of a version, without Spark; and what of one of them, or of each, is out of date."""
    from dedup_storage.lake.catalogs import open_lake
    from dedup_storage.lake.groups import feature_groups
    from dedup_storage.lake.outdated import stale_cells

    meta = job.metadata(dataset)
    number = meta.resolve(version)
    groups = feature_groups(meta, number)
    state = open_lake(job.settings).state
    asked = {name: groups[name]} if name in groups else {} if name else groups
    return groups, {n: stale_cells(meta, meta.spec, number, group, state) for n, group in asked.items()}


def with_outdated(job: Job, dataset: str, summary: Written) -> Written:
    """The summary of a run that changed rows, with a hint at the feature groups that are out of date since; needs no
    Spark. Where nothing was done, nothing is said."""
    if summary.already_published or getattr(summary, "dry_run", False):
        return summary
    return summary.model_copy(update={"hints": (*summary.hints, *_outdated_hint(job, dataset))})


def _outdated_hint(job: Job, dataset: str) -> tuple[str, ...]:
    """Which feature groups of the newest version are out of date, and what refreshes them; nothing where none is."""
    _, cells = stale_groups(job, dataset)
    stale = [name for name, found in cells.items() if found]
    if not stale:
        return ()
    remedy = f"dedup-storage features refresh {stale[0] if len(stale) == 1 else 'NAME'} --dataset {dataset}"
    return (f"feature groups out of date now: {', '.join(stale)}; bring them up to date with: {remedy}",)
