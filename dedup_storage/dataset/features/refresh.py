"""Bring a feature group up to date: compute what is new or changed, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.features.add import told, typed, with_dates
from dedup_storage.dataset.features.checks import explained, feature_columns, require_columns, require_stable_key
from dedup_storage.dataset.features.job import FeatureJob
from dedup_storage.dataset.features.promote import fold
from dedup_storage.dataset.features.recipe import Recipe
from dedup_storage.dataset.features.stale import overlaps_stored, stale_window
from dedup_storage.dataset.features.summary import FeatureSummary
from dedup_storage.dataset.features.window import EVERYTHING, Window
from dedup_storage.dataset.handle import Handle
from dedup_storage.errors import SchemaError
from dedup_storage.faults import reached
from dedup_storage.lake.groups import Coverage, FeatureGroup
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import Run, Staged
from dedup_storage.spark.types import ddl

if TYPE_CHECKING:
    from dedup_storage.quality.model import Verdict

__all__ = ["Refresher"]


class Refresher(FeatureJob):
    """Refreshes a feature group.

    Args:
        handle: The dataset.
        group: Its name.
        source: A function or a frame where the definition alone does not say how to compute it.
        full: Compute every row again, whatever changed.
        run_id, gate: See ``FeatureJob``.
    """

    def __init__(
        self,
        handle: Handle,
        group: str,
        source: Any = None,
        *,
        run_id: str,
        full: bool = False,
        gate: bool = True,
    ) -> None:
        super().__init__(handle, group, run_id=run_id, job="refresh-features", gate=gate)
        self.source, self.full = source, full

    def refresh(self) -> FeatureSummary:
        """Do it.

        Raises:
            UnknownColumnError: there is no such group, or its recipe names a column that is gone.
            UsageError: the group's recipe must be handed in again.
            ConflictError: another run changed the group first.
        """
        meta, done = self.begin()
        if done is not None:
            return done
        group = self.find(meta)
        with self.timed("changes"):
            target = EVERYTHING if self.full else self._stale(meta, group)
        if target is None:
            return self.summary(meta.current, group, up_to_date=True)
        recipe = Recipe.stored(group.source) if self.source is None else Recipe.of(self.source)
        self.prepare_gate()
        inputs = self.inputs(meta, group, target)
        with explained(group.name, told(group)):
            frame = recipe.frame(inputs)
        self._agree(frame, group)
        keys = inputs.keys(target)
        types = {f.name: ddl(f.dataType) for f in keys.schema.fields} | group.types
        frame = typed(with_dates(frame, keys, inputs.key, inputs.dates), types)
        frame = target.only(frame, self.spec, self.tables.bucket(self.spec))
        # Rows that are not computed now keep what they were looked up from.
        lookups = inputs.lookups if target == EVERYTHING else group.coverage[0].lookups
        coverage = (Coverage(version=meta.current, snapshots=inputs.snapshots, lookups=lookups),)
        updated = group.model_copy(update={"coverage": coverage, "run_id": self.run_id, "source": recipe.source})
        if group.promoted is not None:
            return self._fold(meta, updated, frame, keys, target)
        return self._write(meta, group, updated, frame, keys, target)

    def _stale(self, meta: DatasetMetadata, group: FeatureGroup) -> Window | None:
        return stale_window(meta, self.spec, meta.current, group, self.tables.state)

    def _fold(
        self, meta: DatasetMetadata, updated: FeatureGroup, frame: DataFrame, keys: DataFrame, target: Window
    ) -> FeatureSummary:
        """Write the values into the table that the group was promoted to, segment by segment."""
        table = str(updated.promoted)
        group = self.find(meta)
        segments = target.whole_segments(self.spec)
        values = self._with_carried(meta, table, frame, target, segments)
        buckets = segments.buckets if segments.buckets is not None else tuple(range(self.spec.buckets))
        run = self.run(
            meta, table, updated.table, replaced=segments.ranges, buckets=buckets, replaced_tables=(table,), dates=None
        )
        try:
            with self.timed("stage"), explained(updated.name, told(updated)):
                staged = fold(self, meta, updated, values, segments, run, changed=target)
            with explained(updated.name, told(updated)):
                verdict = self.audit(updated, frame, keys)
        except BaseException:
            self.tables.discard(self.spec, run)
            raise
        members = sorted({self.spec.anchor.name, table, updated.table})
        version = self.publish(run, members, self.unchanged(group))
        return self._told(version, updated, target, staged, verdict, replaced=True)

    def _told(
        self,
        version: int,
        group: FeatureGroup,
        target: Window,
        staged: Staged,
        verdict: Verdict | None,
        *,
        replaced: bool,
    ) -> FeatureSummary:
        return self.summary(
            version,
            group,
            dates=target.ranges,
            buckets=target.buckets,
            replaced=replaced,
            rows=staged.rows,
            bytes=staged.bytes,
            files=staged.files,
            gate="passed" if self.gate else "off",
            docs=verdict.docs if verdict is not None else None,
        )

    def _write(
        self,
        meta: DatasetMetadata,
        group: FeatureGroup,
        updated: FeatureGroup,
        frame: DataFrame,
        keys: DataFrame,
        target: Window,
    ) -> FeatureSummary:
        replaced = overlaps_stored(meta, self.spec, group, meta.current, target)
        run = self.run(meta, group.table)
        if replaced:
            segments = target.whole_segments(self.spec)
            frame = self._with_carried(meta, group.table, frame, target, segments)
            buckets = segments.buckets if segments.buckets is not None else tuple(range(self.spec.buckets))
            run = self.run(
                meta,
                group.table,
                replaced=segments.ranges,
                buckets=buckets,
                replaced_tables=(group.table,),
            )
        try:
            with self.timed("stage"), explained(group.name, told(group)):
                staged = self.stage(updated, frame, run)
            verdict = self.audit(updated, self._computed(staged, target, run), keys)
            reached("features:audited")
        except BaseException:
            self.tables.discard(self.spec, run)
            raise
        version = self.publish(run, [self.spec.anchor.name, group.table], self.unchanged(group))
        return self._told(version, updated, target, staged, verdict, replaced=replaced)

    def _with_carried(
        self, meta: DatasetMetadata, table: str, frame: DataFrame, target: Window, segments: Window
    ) -> DataFrame:
        """The computed rows, and those of other dates in the segments that are replaced whole."""
        if segments == target:
            return frame
        bucket = self.tables.bucket(self.spec)
        old = self.tables.read(self.spec.name, table, meta.snapshots(meta.current)[table])
        inside = target.condition(self.spec, bucket)
        if inside is None:
            return frame
        old = segments.only(old, self.spec, bucket).filter(~F.coalesce(inside, F.lit(False)))
        return frame.unionByName(old.select(*frame.columns))

    def _computed(self, staged: Staged, target: Window, run: Run) -> DataFrame:
        """The rows that this run computed, as they are staged."""
        rows = self.tables.staged_rows(self.spec, staged, run)
        return target.only(rows, self.spec, self.tables.bucket(self.spec))

    def _agree(self, frame: DataFrame, group: FeatureGroup) -> None:
        """Check that the frame has the group's key and columns, in types as before."""
        key = group.key(self.spec)
        require_columns(frame, (*key, *group.names), group.name)
        require_stable_key(frame, key, group.name)
        found = {c.name: c.type for c in feature_columns(self.spec, key, frame.schema.fields, not_null=False)}
        for name, kind in found.items():
            if group.types.get(name) != kind:
                raise SchemaError(
                    f"the column {name} of the feature group {group.name} is another than before",
                    expected=group.types.get(name, f"one of {', '.join(group.names)}"),
                    got=kind,
                    fix="Drop the group and add it again to change its columns.",
                )
