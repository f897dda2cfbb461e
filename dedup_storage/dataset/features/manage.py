"""Rename and drop feature groups: versions without a byte of data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dedup_storage.dataset.features.bundle import leaving, still_shared
from dedup_storage.dataset.features.checks import check_group_name
from dedup_storage.dataset.features.job import FeatureJob
from dedup_storage.dataset.features.summary import FeatureSummary
from dedup_storage.errors import ConflictError, UsageError
from dedup_storage.lake.groups import FeatureGroup
from dedup_storage.lake.protocol import UNTAGGED
from dedup_storage.lake.requests import Request

__all__ = ["drop", "rename"]


def rename(job: FeatureJob, new_name: str) -> FeatureSummary:
    """Give a group another name; its table, its columns and its place in older versions stay.

    Raises:
        UsageError: the name is taken, or another group reads this one by its name.
    """
    cut, done = job.begin(lambda: Request.of(job.job, group=job.name, new_name=new_name))
    if done is not None:
        return done
    group = job.find(cut)
    check_group_name(new_name, cut.groups, job.spec.name)
    _refuse_used(group, cut.groups, "renamed")
    renamed = group.model_copy(update={"name": new_name, "run_id": job.run_id})
    if job.dry_run:
        return job.summary(cut.version, renamed)
    run = job.run(cut)
    job.stage(renamed, None, run)

    def verify(now: Mapping[str, FeatureGroup]) -> None:
        job.unchanged(group)(now)
        check_group_name(new_name, now, job.spec.name)

    version = job.publish(run, [job.spec.anchor.name, group.table], verify)
    return job.summary(version, renamed)


def drop(job: FeatureJob) -> FeatureSummary:
    """Publish a version without the group; older versions keep it.

    Raises:
        UsageError: another group reads it.
    """
    cut, done = job.begin(lambda: Request.of(job.job, group=job.name))
    if done is not None:
        return done
    group = job.find(cut)
    _refuse_used(group, cut.groups, "dropped")
    if job.dry_run:
        return job.summary(cut.version, group)
    run = job.run(cut, group.table)
    # The last one takes its bundle along; the columns of another go with the segments that are written anew.
    run = leaving(replace(run, facts={**run.facts, UNTAGGED: group.table}), cut, (group,))
    shared = still_shared(job, cut, (group,) if group.bundled is not None else ())
    job.tables.stage_nothing(job.spec, job.spec.anchor, run)

    def verify(now: Mapping[str, FeatureGroup]) -> None:
        if group.name not in now or now[group.name].table != group.table:
            raise ConflictError(
                f"another run dropped or renamed the feature group {group.name} first", fix="Look at it again."
            )
        shared(now)
        _refuse_used(group, now, "dropped")

    version = job.publish(run, [job.spec.anchor.name], verify)
    return job.summary(version, group)


def _refuse_used(group: FeatureGroup, groups: Mapping[str, FeatureGroup], what: str) -> None:
    readers = [other.name for other in groups.values() if group.name in other.uses]
    if readers:
        raise UsageError(
            f"the feature group {group.name} cannot be {what}, since other groups read it",
            got=f"groups that read it: {', '.join(readers)}",
            fix="Drop those first.",
        )
