"""Bring a feature group up to date: compute what is new or changed, and nothing else."""

from __future__ import annotations

from dataclasses import replace

from pyspark.sql import DataFrame

from dedup_storage.dataset.features.add import typed
from dedup_storage.dataset.features.bundle import fold_bundled
from dedup_storage.dataset.features.checks import (
    explained,
    feature_columns,
    require_columns,
    require_same_source,
    require_stable_key,
    same_source,
)
from dedup_storage.dataset.features.events import (
    EventInputs,
    refuse_other_lists,
    refuse_other_options,
    refuse_own_lists,
)
from dedup_storage.dataset.features.former_positions import refuse_former_positions
from dedup_storage.dataset.features.inputs import Inputs
from dedup_storage.dataset.features.job import FeatureJob
from dedup_storage.dataset.features.promote import fold
from dedup_storage.dataset.features.recipe import Recipe, Source
from dedup_storage.dataset.features.stale import overlaps_stored, stale_lookups, stale_window
from dedup_storage.dataset.features.summary import FeatureSummary
from dedup_storage.dataset.features.window import EVERYTHING, Window
from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.errors import SchemaError
from dedup_storage.faults import reached
from dedup_storage.lake.groups import Coverage, FeatureGroup, FeatureSource
from dedup_storage.lake.protocol import Run
from dedup_storage.lake.requests import NOTHING, Request
from dedup_storage.lake.staging import staging
from dedup_storage.layout import Layout
from dedup_storage.schema import Grain
from dedup_storage.spark.types import ddl

__all__ = ["Refresher"]


class Refresher(FeatureJob):
    """Refreshes a feature group.

    Args:
        handle: The dataset.
        group: Its name.
        source: A function or a frame where the definition alone does not say how to compute it.
        full: Compute every row again, whatever changed.
        run_id, gate, named, dry_run: See ``FeatureJob``.
    """

    def __init__(
        self,
        handle: Handle,
        group: str,
        source: Source | None = None,
        *,
        run_id: str,
        full: bool = False,
        gate: bool = True,
        named: bool = True,
        dry_run: bool = False,
    ) -> None:
        super().__init__(handle, group, run_id=run_id, job="refresh-features", gate=gate, named=named, dry_run=dry_run)
        self.source, self.full = source, full

    def refresh(self) -> FeatureSummary:
        """Do it.

        Raises:
            UnknownColumnError: there is no such group, or its recipe names a column that is gone.
            UsageError: the group's recipe must be handed in again.
            ConflictError: another run changed the group first.
        """
        cut, done = self.begin(self._asked)
        if done is not None:
            return done
        group = self.find(cut)
        given = None if self.source is None else Recipe.of(self.source)
        if group.grain is Grain.EVENT:
            return self._refresh_events(cut, group, given)
        with self.timed("changes"):
            target = EVERYTHING if self.full else stale_window(cut, group, lookups=True)
        if given is not None and target != EVERYTHING:
            require_same_source(group, given.source)
        if target is None:
            return self.summary(cut.version, group, up_to_date=True)
        recipe = Recipe.stored(group.source) if given is None else given
        source, hints = self._source(group, recipe, whole=target == EVERYTHING)
        self.prepare_gate()
        inputs = self.inputs(cut, group, target)
        frame, keys, types = self._computed(group, recipe, inputs, target)
        with explained(group):
            frame = typed(self.keyed(frame, keys, inputs.key), types)
        frame = target.only(self.handle, frame)
        # Rows that are not computed now keep what they were looked up from.
        lookups = inputs.lookups if target == EVERYTHING else group.coverage[0].lookups
        coverage = (Coverage(version=cut.version, snapshots=inputs.snapshots, lookups=lookups),)
        updated = group.model_copy(update={"coverage": coverage, "run_id": self.run_id, "source": source})
        written = (self._fold if group.moved else self._write)(cut, group, updated, frame, keys, target)
        return written.model_copy(update={"hints": (*written.hints, *hints)})

    def _refresh_events(self, cut: Cut, group: FeatureGroup, given: Recipe | None) -> FeatureSummary:
        """Compute the events that have no row yet; all of them where what they are computed by changed."""
        with self.timed("changes"):
            whole = self.full or not group.coverage or stale_lookups(cut, group)
            changed = whole or stale_window(cut, group, lookups=False) is not None
        if given is not None:
            refuse_other_options(given, lookback=0, uses=(), across_users=False, group=group.name)
            if not whole:
                require_same_source(group, given.source)
        if not changed:
            return self.summary(cut.version, group, up_to_date=True)
        recipe = Recipe.stored(group.source) if given is None else given
        refuse_own_lists(cut, group)
        self.prepare_gate()
        inputs = EventInputs(cut, group, new=not whole)
        inputs.refuse_other_rows(recipe.source)
        frame, keys, types = self._computed(group, recipe, inputs, EVERYTHING)
        with explained(group):
            if recipe.rows is not None:
                refuse_former_positions(cut, inputs.events, frame, group.name)
            frame = typed(inputs.fitted(self.keyed(frame, keys, inputs.key), recipe, judged=self.gate), types)
        lookups = inputs.lookups if whole else group.coverage[0].lookups
        coverage = (Coverage(version=cut.version, snapshots=inputs.snapshots, lookups=lookups),)
        updated = group.model_copy(update={"coverage": coverage, "run_id": self.run_id, "source": recipe.source})
        if self.dry_run:
            return self.planned(cut, updated, self.rows_of(updated, keys), replaced=whole)
        run = self.run(cut, group.table)
        if whole:
            run = replace(run, replaced=EVERYTHING.ranges, replaced_tables=(group.table,), dates=None)
        with staging(self.tables, self.spec, run) as listed:
            with self.timed("stage"), explained(group):
                staged = self.stage(updated, frame, run)
            listed.append(staged)
            verdict = self.audit(updated, self.tables.staged_rows(self.spec, staged, run), keys)
            reached("features:audited")
        members, lists = [self.spec.anchor.name, group.table], refuse_other_lists(run, self.spec.name)
        version = self.publish(run, members, self.unchanged(group), lists)
        return self.summary(version, updated, staged=staged, verdict=verdict, replaced=whole)

    def _computed(
        self, group: FeatureGroup, recipe: Recipe, inputs: Inputs, target: Window
    ) -> tuple[DataFrame, DataFrame, dict[str, str]]:
        """Rows that a recipe gives, held against the group; keys of those that there must be; types of both."""
        with explained(group):
            frame = recipe.frame(inputs)
        self._agree(frame, group)
        keys = inputs.keys(target)
        return frame, keys, {f.name: ddl(f.dataType) for f in keys.schema.fields} | group.types

    def _source(self, group: FeatureGroup, recipe: Recipe, *, whole: bool) -> tuple[FeatureSource, tuple[str, ...]]:
        """What the definition keeps as the group's source, and what is to be said of it."""
        if self.source is not None or recipe.function is None:
            return recipe.source, ()
        # Its text is that of the day on which the group was computed, until every row is computed anew.
        now = recipe.source.model_copy(update={"text": Recipe.of(recipe.function).source.text})
        if whole or same_source(group.source, now):
            return now, ()
        return recipe.source, (
            f"The function {now.function} reads otherwise than when the group was computed; rows of before keep the "
            "values that it gave then. A refresh with full=True (--full) computes them anew.",
        )

    def _asked(self) -> Request:
        """What is asked for, as far as the run id stands for it."""
        told = NOTHING if self.source is None else Recipe.of(self.source).text()
        return Request.of(self.job, group=self.name, full=self.full).with_texts(source=told)

    def _fold(
        self, cut: Cut, group: FeatureGroup, updated: FeatureGroup, frame: DataFrame, keys: DataFrame, target: Window
    ) -> FeatureSummary:
        """Write the values into the table that the group was promoted or bundled into, segment by segment."""
        table = updated.home
        segments = target.whole_segments(self.spec)
        if self.dry_run:
            kept = segments.only(self.handle, cut.rows(table)) if updated.promoted else self._keys(cut, group, segments)
            return self.planned(cut, updated, kept.count(), window=target, replaced=True)
        values = self._with_carried(cut, table, frame, target, segments)
        run = replace(self._replacing(cut, segments, table, updated.table), replaced_tables=(table,), dates=None)
        with staging(self.tables, self.spec, run) as listed:
            with self.timed("stage"), explained(updated):
                if updated.promoted is not None:
                    staged = fold(self, cut, updated, values, segments, run, changed=target)
                else:
                    staged = fold_bundled(self, cut, updated, values, segments, run, changed=target)
            listed.append(staged)
            with explained(updated):
                verdict = self.audit(updated, frame, keys)
        members = sorted({self.spec.anchor.name, table, updated.table})
        version = self.publish(run, members, self.unchanged(group))
        return self.summary(version, updated, window=target, staged=staged, verdict=verdict, replaced=True)

    def _write(
        self, cut: Cut, group: FeatureGroup, updated: FeatureGroup, frame: DataFrame, keys: DataFrame, target: Window
    ) -> FeatureSummary:
        """Write the values into the group's own table."""
        replaced = overlaps_stored(cut, group, target)
        if self.dry_run:
            rows = self.rows_of(updated, keys)
            segments = target.whole_segments(self.spec)
            if rows is not None and replaced and segments != target:
                rows += self._carried(cut, group.table, target, segments).count()
            return self.planned(cut, updated, rows, window=target, replaced=replaced)
        run = self.run(cut, group.table)
        if replaced:
            segments = target.whole_segments(self.spec)
            frame = self._with_carried(cut, group.table, frame, target, segments)
            run = self._replacing(cut, segments, group.table)
        with staging(self.tables, self.spec, run) as listed:
            with self.timed("stage"), explained(group):
                staged = self.stage(updated, frame, run)
            listed.append(staged)
            computed = target.only(self.handle, self.tables.staged_rows(self.spec, staged, run))
            verdict = self.audit(updated, computed, keys)
            reached("features:audited")
        version = self.publish(run, [self.spec.anchor.name, group.table], self.unchanged(group))
        return self.summary(version, updated, window=target, staged=staged, verdict=verdict, replaced=replaced)

    def _replacing(self, cut: Cut, segments: Window, *tables: str) -> Run:
        """The attempt as one that replaces whole segments of the tables."""
        buckets = segments.buckets if segments.buckets is not None else tuple(range(self.spec.buckets))
        return replace(self.run(cut, *tables), replaced=segments.ranges, buckets=buckets, replaced_tables=tables)

    def _with_carried(self, cut: Cut, table: str, frame: DataFrame, target: Window, segments: Window) -> DataFrame:
        """The computed rows, and those of other dates in the segments that are replaced whole; each key once."""
        if segments == target:
            return frame
        carried = self._carried(cut, table, target, segments).select(*frame.columns)
        flat = self.spec.layout is Layout.FLAT and table == self.spec.anchor.name
        if flat and self.spec.position_column not in frame.columns:
            # The group was promoted: each row of a request has the request's values.
            carried = carried.dropDuplicates(list(self.spec.request_key))
        return frame.unionByName(carried)

    def _carried(self, cut: Cut, table: str, target: Window, segments: Window) -> DataFrame:
        """Rows of a table in segments that are replaced whole, but of other dates than those that are computed."""
        return target.outside(self.handle, segments.only(self.handle, cut.rows(table)))

    def _keys(self, cut: Cut, group: FeatureGroup, segments: Window) -> DataFrame:
        return Inputs(cut, grain=group.grain, groups=cut.groups, uses=(), window=segments).keys(segments)

    def _agree(self, frame: DataFrame, group: FeatureGroup) -> None:
        """Check that the frame has the group's key and columns, in types as before."""
        key = group.key(self.spec)
        require_columns(frame, (*key, *group.names), group.name)
        require_stable_key(frame, key, group.name)
        for column in feature_columns(self.spec, group, frame.schema.fields, not_null=False):
            name, kind = column.name, column.type
            if group.types.get(name) != kind:
                raise SchemaError(
                    f"the column {name} of the feature group {group.name} has another type than before"
                    if name in group.types
                    else f"the feature group {group.name} had no column {name} before",
                    expected=group.types.get(name, f"one of {', '.join(group.names)}"),
                    got=kind,
                    fix="Drop the group and add it again to change its columns.",
                )
