"""Fold a feature group into its grain's table: that table is rewritten once, and reading it joins nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from pyspark.sql import DataFrame

from dedup_storage.dataset.features.bundle import leaving, refuse_repeated, still_shared
from dedup_storage.dataset.features.job import FeatureJob
from dedup_storage.dataset.features.read import attach
from dedup_storage.dataset.features.summary import FeatureSummary
from dedup_storage.dataset.features.window import EVERYTHING, Window
from dedup_storage.dataset.handle import Cut
from dedup_storage.errors import UsageError
from dedup_storage.faults import reached
from dedup_storage.lake.facts import CHANGED, ROWS_KEPT
from dedup_storage.lake.groups import FeatureGroup, grain_table, group_table, promoted_columns
from dedup_storage.lake.protocol import Run, Staged
from dedup_storage.lake.requests import Request
from dedup_storage.lake.staging import staging
from dedup_storage.layout import TableSpec

__all__ = ["fold", "promote"]


def promote(job: FeatureJob) -> FeatureSummary:
    """Rewrite the grain's table with the group's columns in it, and empty the group's own table.

    The group stays what it is: it can be refreshed, renamed, dropped and rolled back as before.

    Raises:
        UsageError: it is promoted already.
        ConflictError: another run published a version meanwhile; run again.
    """
    cut, done = job.begin(lambda: Request.of(job.job, group=job.name))
    if done is not None:
        return done
    group = job.find(cut)
    if group.promoted is not None:
        raise UsageError(f"the feature group {group.name} is promoted already", got=f"columns of {group.promoted}")
    values = cut.rows(group.home)
    moved = {"promoted": grain_table(job.spec, group.grain).name, "bundled": None, "run_id": job.run_id}
    promoted = group.model_copy(update=moved)
    if job.dry_run:
        own = str(promoted.promoted)
        return job.planned(cut, promoted, cut.meta.totals(own, cut.snapshots[own]).rows, replaced=True, computed=False)
    tables = (str(promoted.promoted), group.table)
    run = replace(job.run(cut, *tables), replaced=EVERYTHING.ranges, replaced_tables=tables, dates=None)
    run = leaving(run, cut, (group,))
    with staging(job.tables, job.spec, run), job.timed("stage"):
        staged = fold(job, cut, promoted, values, EVERYTHING, run)
    members = sorted({job.spec.anchor.name, staged.table, group.table})
    shared = still_shared(job, cut, (group,))

    def verify(now: Mapping[str, FeatureGroup]) -> None:
        job.unchanged(group)(now)
        shared(now)

    version = job.publish(run, members, verify)
    return job.summary(version, promoted, staged=staged, replaced=True)


def fold(
    job: FeatureJob,
    cut: Cut,
    group: FeatureGroup,
    values: DataFrame,
    segments: Window,
    run: Run,
    *,
    changed: Window | None = None,
) -> Staged:
    """Stage segments of the grain's table with a promoted group's values, beside the group's definition.

    Args:
        job: The job.
        cut: The version that the run starts from.
        group: The group's new definition, ``promoted`` set.
        values: Key and columns of every row of the segments that has values.
        segments: Whole segments, which ``run`` replaces.
        run: The attempt.
        changed: Where the values are other than before; ``None`` when they move here from the group's own table,
            which is emptied.

    Raises:
        DuplicateRowsError: the values have two rows for one key, which would bring rows of the log twice.
    """
    spec = job.spec
    others = [other for other in cut.groups.values() if other.name != group.name]
    own = grain_table(spec, group.grain)
    kept = (*own.columns, *promoted_columns(others, own.name))
    rows = segments.only(job.handle, cut.stored(own.name).select(*kept))
    rows = attach(spec, rows, [((group,), values)])
    job.tables.add_columns(spec, own.name, group.types)
    table = TableSpec(role=own.role, name=own.name, columns=(*kept, *group.names), sort_columns=own.sort_columns)
    reached("features:columns-added")
    # The log's own columns stay as they are: only groups that read this one have to be computed again.
    facts = {own.name: {ROWS_KEPT: "true"}, group.table: {ROWS_KEPT: "true"}}
    if changed is not None:
        facts[group.table] = {CHANGED: json.dumps([cell.to_list() for cell in changed.cells()])}
    run = replace(run, table_facts=facts)
    staged = job.tables.stage(spec, table, rows, run)
    # These are the log's own rows, of which none may come or go.
    log = segments.only(job.handle, cut.rows(own.name))
    whole = segments == EVERYTHING
    wanted = cut.meta.totals(own.name, cut.snapshots[own.name]).rows if whole else log.count()
    refuse_repeated(staged, wanted, group.grain, own.name)
    reached("features:folded")
    with_definition = job.with_definition(run, group)
    if changed is None:
        nothing = cut.rows(group.table).limit(0)
        job.tables.stage(spec, group_table(spec, group), nothing, with_definition)
    else:
        job.tables.stage_nothing(spec, group_table(spec, group), with_definition)
    if own.name != spec.anchor.name:
        job.tables.stage_nothing(spec, spec.anchor, run)
    reached("features:staged-anchor")
    return staged
