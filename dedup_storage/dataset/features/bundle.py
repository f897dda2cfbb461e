"""Several feature groups in one table of their own: reading them joins once, and no table of the log is touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from pyspark.sql import DataFrame

from dedup_storage.dataset.features.inputs import Inputs
from dedup_storage.dataset.features.job import FeatureJob
from dedup_storage.dataset.features.read import attach
from dedup_storage.dataset.features.summary import FeatureSummary
from dedup_storage.dataset.features.window import EVERYTHING, Window
from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.errors import ConflictError, DuplicateRowsError
from dedup_storage.faults import reached
from dedup_storage.lake.bundles import left_empty, to_bundle
from dedup_storage.lake.facts import CHANGED, ROWS_KEPT
from dedup_storage.lake.groups import FeatureGroup, bundle_table, by_table, grain_table, group_table
from dedup_storage.lake.protocol import UNTAGGED, Run, Staged
from dedup_storage.lake.requests import Request
from dedup_storage.lake.staging import staging
from dedup_storage.layout import Layout
from dedup_storage.schema import Grain
from dedup_storage.spark.types import ddl

__all__ = ["Bundler", "fold_bundled", "leaving", "refuse_repeated", "still_shared"]


class Bundler(FeatureJob):
    """Brings feature groups of one grain into one new table.

    The groups stay what they are: each is refreshed, renamed, dropped, backfilled and rolled back as before. Their own
    tables stay members of versions, empty, and keep the definitions.

    Args:
        handle: The dataset.
        bundle: Name of the bundle.
        groups: Names of the groups.
        run_id, named: See ``FeatureJob``.
    """

    def __init__(self, handle: Handle, bundle: str, groups: Sequence[str], *, run_id: str, named: bool = True) -> None:
        super().__init__(handle, bundle, run_id=run_id, job="bundle-features", gate=False, named=named)
        self.chosen = groups

    def bundle(self) -> FeatureSummary:
        """Do it.

        Raises:
            UsageError, UnknownColumnError: these groups cannot share a table; nothing was changed.
            DuplicateRowsError: a group has two rows for one key.
            ConflictError: another run changed one of the groups first.
        """
        cut, done = self.begin(lambda: Request.of(self.job, bundle=self.name, groups=sorted(set(self.chosen))))
        if done is not None:
            return done
        groups = to_bundle(cut.groups, self.name, self.chosen, self.spec.name)
        inputs = Inputs(cut, grain=groups[0].grain, groups=cut.groups, uses=(), window=EVERYTHING)
        keys = inputs.keys(EVERYTHING)
        rows = attach(self.spec, keys, [(there, cut.rows(home)) for home, there in by_table(groups).items()])
        types = {f.name: ddl(f.dataType) for f in keys.schema.fields}
        for group in groups:
            types |= group.types
        columns = bundle_table(self.spec, "", groups).columns
        table = bundle_table(self.spec, self.free_table(cut, columns, types, bundle=True), groups)
        self.tables.create_table(self.spec, table, types)
        reached("features:created")
        # Those that have rows in tables of their own, which are emptied.
        alone = tuple(group.table for group in groups if not group.moved)
        run = leaving(self.run(cut, table.name, *(group.table for group in groups)), cut, groups)
        run = replace(
            run,
            replaced=EVERYTHING.ranges,
            replaced_tables=alone,
            dates=None,
            table_facts={name: {ROWS_KEPT: "true"} for name in (table.name, *(group.table for group in groups))},
        )
        with staging(self.tables, self.spec, run) as listed:
            with self.timed("stage"):
                staged = self.tables.stage(self.spec, table, rows, run)
                listed.append(staged)
                reached("features:bundled")
                self._refuse_repeated(cut, groups, staged)
                for group in groups:
                    self._move(cut, group, table.name, run)
                reached("features:emptied")
                self.tables.stage_nothing(self.spec, self.spec.anchor, run)
            reached("features:staged-anchor")
        members = [self.spec.anchor.name, table.name, *(group.table for group in groups)]
        shared = still_shared(self, cut, groups)

        def verify(now: Mapping[str, FeatureGroup]) -> None:
            for group in groups:
                self.unchanged(group)(now)
            shared(now)

        version = self.publish(run, members, verify)
        return self.summary(version, staged=staged).model_copy(
            update={
                "groups": tuple(group.name for group in groups),
                "grain": groups[0].grain.value,
                "table": table.name,
                "columns": tuple(name for group in groups for name in group.names),
            }
        )

    def _move(self, cut: Cut, group: FeatureGroup, table: str, run: Run) -> None:
        """Stage a group's definition in its own table, without the rows that it may have there."""
        moved = group.model_copy(update={"bundled": table, "run_id": self.run_id})
        described, own = self.with_definition(run, moved), group_table(self.spec, group)
        if run.replaces(group.table):
            self.tables.stage(self.spec, own, cut.rows(group.table).limit(0), described)
        else:
            self.tables.stage_nothing(self.spec, own, described)

    def _refuse_repeated(self, cut: Cut, groups: Sequence[FeatureGroup], staged: Staged) -> None:
        """Each key of the log has one row; where the log's own table has one row a key, its count says so."""
        if self.spec.layout is Layout.FLAT and groups[0].grain is Grain.REQUEST:
            return
        own = grain_table(self.spec, groups[0].grain).name
        refuse_repeated(staged, cut.meta.totals(own, cut.snapshots[own]).rows, groups[0].grain, own)


def refuse_repeated(staged: Staged, wanted: int, grain: Grain, like: str) -> None:
    """Refuse rows that values of feature groups were joined to, where these have brought rows twice.

    Args:
        staged: The rows with the values.
        wanted: How many there were before.
        grain: Of the groups.
        like: Whose rows they are.

    Raises:
        DuplicateRowsError: there are more.
    """
    if staged.rows != wanted:
        raise DuplicateRowsError(
            f"a feature group has two rows for one {grain.value}",
            expected=f"{wanted:,} rows, as {like} has",
            got=f"{staged.rows:,}",
            fix="Nothing was published. Find the group with: dedup-storage check.",
        )


def leaving(run: Run, cut: Cut, groups: Sequence[FeatureGroup]) -> Run:
    """The run, whose version leaves out the bundles that hold no group any more once these have left them."""
    empty = left_empty(cut.groups.values(), [group.name for group in groups])
    if not empty:
        return run
    untagged = ",".join(filter(None, (run.facts.get(UNTAGGED), *empty)))
    return replace(run, facts={**run.facts, UNTAGGED: untagged}, tables=(*(run.tables or ()), *empty))


def still_shared(
    job: FeatureJob, cut: Cut, groups: Sequence[FeatureGroup]
) -> Callable[[Mapping[str, FeatureGroup]], None]:
    """A check that nobody else changed which groups share a table with some groups while a run worked."""
    tables = {group.home for group in groups}
    before = _sharing(cut.groups, tables)

    def check(now: Mapping[str, FeatureGroup]) -> None:
        after = _sharing(now, tables)
        if before != after:
            raise ConflictError(
                f"another run changed which feature groups of {job.spec.name} share a table",
                expected=_told(before),
                got=_told(after),
                fix="Nothing was published. Run the job again.",
            )

    return check


def _sharing(groups: Mapping[str, FeatureGroup], tables: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Table -> the groups in it, by their own tables, since a rename moves no row."""
    found = by_table(group for group in groups.values() if group.home in tables)
    return {home: tuple(sorted(group.table for group in there)) for home, there in sorted(found.items())}


def _told(sharing: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{table} of {', '.join(names)}" for table, names in sharing.items()) or "none of them"


def fold_bundled(
    job: FeatureJob,
    cut: Cut,
    group: FeatureGroup,
    values: DataFrame,
    segments: Window,
    run: Run,
    *,
    changed: Window,
) -> Staged:
    """Stage segments of a bundle's table with new values of one of its groups, beside the group's definition.

    The rows are those of the log as it is now, so that keys which are gone leave no row behind.

    Args:
        job: The job.
        cut: The version that the run starts from.
        group: The group's new definition.
        values: Key and columns of every row of the segments that has values.
        segments: Whole segments, which ``run`` replaces.
        run: The attempt.
        changed: Where the values are other than before.

    Raises:
        DuplicateRowsError: the values, or a group beside them, have two rows for one key.
    """
    spec, table = job.spec, str(group.bundled)
    others = [o for o in cut.groups.values() if o.bundled == table and o.name != group.name]
    keys = Inputs(cut, grain=group.grain, groups=cut.groups, uses=(), window=segments).keys(segments)
    beside = [(others, segments.only(job.handle, cut.rows(table)))] if others else []
    rows = attach(spec, keys, [*beside, ((group,), values)])
    # Groups that read this one look at its own table; nobody's values beside it changed.
    cells = json.dumps([cell.to_list() for cell in changed.cells()])
    run = replace(run, table_facts={table: {ROWS_KEPT: "true"}, group.table: {CHANGED: cells}})
    staged = job.tables.stage(spec, bundle_table(spec, table, (*others, group)), rows, run)
    refuse_repeated(staged, keys.count(), group.grain, "the log")
    reached("features:folded")
    job.stage(group, None, run)
    return staged
