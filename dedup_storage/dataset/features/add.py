"""A new feature group: one keyed table beside the others, and not a byte of them rewritten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.features.checks import (
    check_group_name,
    explained,
    feature_columns,
    require_columns,
    require_stable_key,
    unclashing,
)
from dedup_storage.dataset.features.job import FeatureJob
from dedup_storage.dataset.features.recipe import Recipe, Source
from dedup_storage.dataset.features.summary import FeatureSummary
from dedup_storage.dataset.features.window import EVERYTHING
from dedup_storage.dataset.handle import Handle
from dedup_storage.errors import UsageError
from dedup_storage.faults import reached
from dedup_storage.lake.groups import (
    Coverage,
    FeatureGroup,
    find_group,
    group_table,
)
from dedup_storage.lake.requests import Request
from dedup_storage.lake.staging import staging
from dedup_storage.schema import Grain
from dedup_storage.spark.types import ddl

__all__ = ["Adder", "typed"]


class Adder(FeatureJob):
    """Adds a feature group.

    Args:
        handle: The dataset.
        group: Its name.
        source: See ``Recipe.of``.
        grain: What one row stands for.
        lookback: Days of history that a row depends on; ``None`` for all of it.
        uses: Other groups whose columns are read.
        across_users: Whether a row depends on other users' rows.
        missing: ``refuse`` rows that the log has and the group has not, or read them as ``null``.
        not_null: Columns in which the gate refuses nulls; ``True`` for all.
        run_id, gate, named: See ``FeatureJob``.
    """

    def __init__(
        self,
        handle: Handle,
        group: str,
        source: Source,
        *,
        grain: Grain,
        run_id: str,
        lookback: int | None = 0,
        uses: Sequence[str] = (),
        across_users: bool = False,
        missing: str = "refuse",
        not_null: Iterable[str] | bool = (),
        gate: bool = True,
        named: bool = True,
    ) -> None:
        super().__init__(handle, group, run_id=run_id, job="add-features", gate=gate, named=named)
        self.recipe = Recipe.of(source)
        self.grain, self.lookback, self.uses, self.across_users = grain, lookback, tuple(uses), across_users
        self.missing, self.not_null = missing, not_null if isinstance(not_null, bool) else tuple(not_null)
        if missing not in ("refuse", "null"):
            raise UsageError("the policy for missing rows is not known", expected="refuse or null", got=str(missing))
        if lookback is not None and lookback < 0:
            raise UsageError("the look-back is negative", expected="days, 0 or more", got=str(lookback))
        if lookback != 0 and handle.spec.event_date_column is None:
            raise UsageError("a look-back needs event dates", got=f"a dataset without event time: {handle.name}")

    def add(self) -> FeatureSummary:
        """Do it.

        Raises:
            UsageError: a name is taken, a column unknown, or the key not deterministic; nothing was changed.
            InputError: the function or the expression raised.
            QualityGateError: the gate refused; nothing was published.
        """
        cut, done = self.begin(self._asked)
        if done is not None:
            return done
        check_group_name(self.name, cut.groups, self.spec.name)
        for other in self.uses:
            find_group(cut.groups, other, self.spec.name)
        self.prepare_gate()
        bare = FeatureGroup(
            name=self.name,
            table="",
            grain=self.grain,
            columns=(),
            source=self.recipe.source,
            uses=self.uses,
            lookback=self.lookback,
            across_users=self.across_users,
            missing=self.missing,
            run_id=self.run_id,
        )
        inputs = self.inputs(cut, bare, EVERYTHING)
        with explained(bare):
            frame = self.recipe.frame(inputs)
        group = self._defined(frame, bare)
        unclashing(cut.meta, group, cut.groups)
        keys = inputs.keys(EVERYTHING)
        with explained(bare):
            frame = self.keyed(frame, keys, inputs.key)
        types = {f.name: ddl(f.dataType) for f in keys.schema.fields} | group.types
        coverage = (Coverage(version=cut.version, snapshots=inputs.snapshots, lookups=inputs.lookups),)
        table = self.free_table(cut, group_table(self.spec, group).columns, types)
        group = group.model_copy(update={"table": table, "coverage": coverage})
        self.tables.create_table(self.spec, group_table(self.spec, group), types)
        reached("features:created")
        run = self.run(cut, group.table)
        with staging(self.tables, self.spec, run) as listed:
            with self.timed("stage"), explained(group):
                staged = self.stage(group, typed(frame, types), run)
            listed.append(staged)
            rows = self.tables.staged_rows(self.spec, staged, run)
            verdict = self.audit(group, rows, keys)
            reached("features:audited")
        version = self.publish(run, [self.spec.anchor.name, group.table], self._still_free(group))
        return self.summary(version, group, staged=staged, verdict=verdict)

    def _asked(self) -> Request:
        """What is asked for, as far as the run id stands for it."""
        not_null = self.not_null if isinstance(self.not_null, bool) else sorted(self.not_null)
        request = Request.of(
            self.job, group=self.name, grain=self.grain.value, lookback=self.lookback, uses=self.uses,
            across_users=self.across_users, missing=self.missing, not_null=not_null,
        )  # fmt: skip
        return request.with_texts(source=self.recipe.text())

    def _defined(self, frame: DataFrame, bare: FeatureGroup) -> FeatureGroup:
        key = bare.key(self.spec)
        require_columns(frame, key, self.name)
        require_stable_key(frame, key, self.name)
        columns = feature_columns(self.spec, key, frame.schema.fields, self.not_null)
        return bare.model_copy(update={"columns": columns})

    def _still_free(self, group: FeatureGroup) -> Callable[[Mapping[str, FeatureGroup]], None]:
        def check(now: Mapping[str, FeatureGroup]) -> None:
            check_group_name(group.name, now, self.spec.name)
            unclashing(self.tables.metadata(self.spec.name), group, now)

        return check


def typed(frame: DataFrame, types: Mapping[str, str]) -> DataFrame:
    """The columns in the table's types."""
    return frame.select(*(F.col(c).cast(t).alias(c) for c, t in types.items()))
