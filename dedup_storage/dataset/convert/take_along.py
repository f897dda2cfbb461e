"""Feature groups and named samples of a dataset, copied into the one that it is converted to."""

from __future__ import annotations

import uuid

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.convert.parts import summed
from dedup_storage.dataset.features.add import typed
from dedup_storage.dataset.features.job import FeatureJob
from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.dataset.samples.make import make_sample
from dedup_storage.dataset.samples.store import SAMPLED, SampleStore, pruning_buckets
from dedup_storage.dataset.samples.users import STRATUM
from dedup_storage.errors import StorageError
from dedup_storage.faults import reached
from dedup_storage.lake.groups import Coverage, FeatureGroup, grain_table, group_table
from dedup_storage.lake.requests import Request
from dedup_storage.lake.staging import staging
from dedup_storage.sampling.definition import Sample
from dedup_storage.sampling.stored import USER_WEIGHT
from dedup_storage.schema import Grain
from dedup_storage.spark.rows import buckets_of

__all__ = ["conversion_source", "copy_group", "copy_sample"]


def conversion_source(cut: Cut) -> Request:
    """What a conversion is asked to read."""
    return Request.of("convert", source=cut.spec.name, format=cut.handle.tables.name, version=cut.version)


def copy_group(cut: Cut, target: Handle, group: FeatureGroup, run_id: str, *, outdated: bool) -> None:
    """Publish a feature group of a version in another dataset of the same keys, in a table of its own.

    Args:
        cut: The version.
        target: The dataset, with the version's rows in it.
        group: The group.
        run_id: The run; published once.
        outdated: The group does not follow from the version: in the target all of it is to be computed.

    Raises:
        StorageError: the rows differ.
    """
    job = FeatureJob(target, group.name, run_id=run_id, job="convert", gate=False)
    now, done = job.begin(lambda: conversion_source(cut).with_texts(group=group.name))
    if done is not None:
        return
    coverage = () if outdated else (Coverage(version=now.version, snapshots=_inputs(now, group)),)
    lookups = group.coverage[-1].lookups if group.coverage else {}
    bare = group.model_copy(
        update={
            "promoted": None,
            "bundled": None,
            "run_id": run_id,
            "coverage": tuple(part.model_copy(update={"lookups": lookups}) for part in coverage),
        }
    )
    spec = job.spec
    known = {str(spec.event_date_column): "date", spec.position_column: "int", **spec.types, **bare.types}
    types = {c: known[c] for c in group_table(spec, bare).columns}
    bare = bare.model_copy(update={"table": job.free_table(now, tuple(types), types)})
    table = group_table(spec, bare)
    rows = typed(_rows(cut, group), types)
    target.tables.create_table(spec, table, types)
    run = job.run(now, table.name)
    with staging(target.tables, spec, run) as listed:
        staged = job.stage(bare, rows, run)
        listed.append(staged)
        wanted = summed(rows)
        found = summed(typed(target.tables.staged_rows(spec, staged, run), types))
        if wanted != found:
            raise StorageError(
                f"the feature group {group.name} differs from that of {cut.spec.name}",
                expected=f"{wanted[0]} rows (sum {wanted[1]})",
                got=f"{found[0]} rows (sum {found[1]})",
                fix="Nothing was published. Run the job again with the same run id.",
            )
    job.publish(run, [spec.anchor.name, table.name], lambda groups: None)
    reached("convert:group")


def _rows(cut: Cut, group: FeatureGroup) -> DataFrame:
    """Key, event date and columns of a group, each key once."""
    wanted = group_table(cut.spec, group).columns
    rows = cut.rows(group.home).select(*wanted)
    if group.grain is Grain.REQUEST and group.promoted == "logs":
        key = [c for c in wanted if c not in group.names]
        return rows.groupBy(*key).agg(*(F.first(c).alias(c) for c in group.names))
    return rows


def _inputs(cut: Cut, group: FeatureGroup) -> dict[str, int]:
    """Snapshots of the tables that a group is computed from, as this dataset has them."""
    read = {grain_table(cut.spec, group.grain).name}
    if group.grain is Grain.IMPRESSION:
        read.add(grain_table(cut.spec, Grain.REQUEST).name)
    read |= {cut.groups[name].table for name in group.uses if name in cut.groups}
    return {name: cut.snapshots[name] for name in sorted(read)}


def copy_sample(source: Handle, target: Handle, sample: Sample, run_id: str) -> None:
    """Make a named sample of another dataset: of the same definition, and where users are stored, of the same users.

    Args:
        source, target: The datasets, of the same users.
        sample: The sample of the source.
        run_id: The run.

    Raises:
        UsageError: the target has a sample of that name and another definition.
    """
    store = SampleStore(target)
    if store.find(sample.name) is not None:
        # Left as it is, or refused.
        make_sample(target, sample.name, sample.spec, version=None, run_id=run_id)
        return
    if sample.table is None:
        make_sample(target, sample.name, sample.spec, version=None, run_id=run_id)
        return
    users = SampleStore(source).users(sample)
    user = target.schema.user
    rows = users.select(F.col(users.columns[0]).alias(user), STRATUM, SAMPLED, USER_WEIGHT)
    table, tag = store.write_users(sample.name, rows, uuid.uuid4().hex)
    version = target.metadata().current
    copied = sample.model_copy(update={"version": version, "run_id": run_id, "table": table, "tag": tag})
    # The users are the same, and lie in other buckets wherever number or format differ: files are left out by them.
    count = target.spec.buckets
    chosen = pruning_buckets(count, buckets_of(store.users(copied).filter(SAMPLED), target.bucket))
    store.save(copied.model_copy(update={"chosen_buckets": chosen, "of_buckets": count}))
