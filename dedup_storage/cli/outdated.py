"""What to do next about feature groups whose rows a job changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dedup_storage.cli.runtime import Job

__all__ = ["outdated_hint"]


def outdated_hint(job: Job, dataset: str) -> tuple[str, ...]:
    """Which feature groups of the newest version are out of date, and what refreshes them; nothing where none is.

    Needs no Spark.
    """
    from dedup_storage.lake.catalogs import open_lake
    from dedup_storage.lake.groups import feature_groups
    from dedup_storage.lake.outdated import stale_cells

    meta = job.metadata(dataset)
    newest, state = meta.resolve(None), open_lake(job.settings).state
    groups = feature_groups(meta, newest)
    stale = [name for name, group in groups.items() if stale_cells(meta, meta.spec, newest, group, state)]
    if not stale:
        return ()
    remedy = f"dedup-storage features refresh {stale[0] if len(stale) == 1 else 'NAME'} --dataset {dataset}"
    return (f"feature groups out of date now: {', '.join(stale)}; bring them up to date with: {remedy}",)
