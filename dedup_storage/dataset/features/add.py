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
from dedup_storage.dataset.features.events import (
    EventInputs,
    choose_sequence,
    refuse_key_names,
    refuse_other_lists,
    refuse_other_options,
    refuse_own_lists,
)
from dedup_storage.dataset.features.former_positions import refuse_former_positions
from dedup_storage.dataset.features.job import FeatureJob
from dedup_storage.dataset.features.recipe import Recipe, Source
from dedup_storage.dataset.features.summary import FeatureSummary
from dedup_storage.dataset.features.window import EVERYTHING
from dedup_storage.dataset.handle import Cut, Handle
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
        sequence: At event grain the sequence group of whose events a row is; ``None`` for the only one.
        run_id, gate, named, dry_run: See ``FeatureJob``.
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
        sequence: str | None = None,
        gate: bool = True,
        named: bool = True,
        dry_run: bool = False,
    ) -> None:
        super().__init__(handle, group, run_id=run_id, job="add-features", gate=gate, named=named, dry_run=dry_run)
        self.recipe = Recipe.of(source)
        self.grain, self.lookback, self.uses, self.across_users = grain, lookback, tuple(uses), across_users
        self.missing, self.not_null = missing, not_null if isinstance(not_null, bool) else tuple(not_null)
        if missing not in ("refuse", "null"):
            raise UsageError("the policy for missing rows is not known", expected="refuse or null", got=str(missing))
        if lookback is not None and lookback < 0:
            raise UsageError("the look-back is negative", expected="days, 0 or more", got=str(lookback))
        if lookback != 0 and handle.spec.event_date_column is None:
            raise UsageError("a look-back needs event dates", got=f"a dataset without event time: {handle.name}")
        if grain is not Grain.EVENT and sequence is not None:
            raise UsageError(
                f"the sequence group {sequence} is named for a feature group at {grain.value} grain",
                fix="Leave sequence out, or add it at event grain.",
            )
        self.sequence = None
        if grain is Grain.EVENT:
            refuse_other_options(self.recipe, lookback=lookback, uses=uses, across_users=across_users, group=group)
            self.sequence = choose_sequence(handle.spec, sequence)

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
            self._refuse_events(find_group(cut.groups, other, self.spec.name))
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
            sequence=None if self.sequence is None else self.sequence.name,
        )
        inputs = self.inputs(cut, bare, EVERYTHING)
        with explained(bare):
            frame = self.recipe.frame(inputs)
        if isinstance(inputs, EventInputs):
            self._refuse_lists(cut, inputs, bare)
        group = self._defined(frame, bare)
        if isinstance(inputs, EventInputs) and self.recipe.rows is not None:
            with explained(bare):
                refuse_former_positions(cut, inputs.events, frame, self.name)
        unclashing(cut.meta, group, cut.groups)
        keys = inputs.keys(EVERYTHING)
        with explained(bare):
            frame = self.keyed(frame, keys, inputs.key)
            if isinstance(inputs, EventInputs):
                frame = inputs.fitted(frame, self.recipe, judged=self.gate)
        types = {f.name: ddl(f.dataType) for f in keys.schema.fields} | group.types
        coverage = (Coverage(version=cut.version, snapshots=inputs.snapshots, lookups=inputs.lookups),)
        events = None if self.sequence is None else self.spec.events.index(self.sequence)
        table = self.free_table(cut, group_table(self.spec, group).columns, types, events=events)
        group = group.model_copy(update={"table": table, "coverage": coverage})
        if self.dry_run:
            return self.planned(cut, group, self.rows_of(group, keys))
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
        members, lists = [self.spec.anchor.name, group.table], refuse_other_lists(run, self.spec.name)
        free = self._still_free(group)
        version = self.publish(run, members, free) if self.sequence is None else self.publish(run, members, free, lists)
        return self.summary(version, group, staged=staged, verdict=verdict)

    def _asked(self) -> Request:
        """What is asked for, as far as the run id stands for it."""
        not_null = self.not_null if isinstance(self.not_null, bool) else sorted(self.not_null)
        request = Request.of(
            self.job, group=self.name, grain=self.grain.value, lookback=self.lookback, uses=self.uses,
            across_users=self.across_users, missing=self.missing, not_null=not_null,
            sequence=None if self.sequence is None else self.sequence.name,
        )  # fmt: skip
        return request.with_texts(source=self.recipe.text())

    def _defined(self, frame: DataFrame, bare: FeatureGroup) -> FeatureGroup:
        key = bare.key(self.spec)
        require_columns(frame, key, self.name)
        require_stable_key(frame, key, self.name)
        columns = feature_columns(self.spec, bare, frame.schema.fields, self.not_null)
        return bare.model_copy(update={"columns": columns})

    def _refuse_events(self, used: FeatureGroup) -> None:
        if used.grain is Grain.EVENT:
            raise UsageError(
                f"the feature group {used.name} is at event grain, and {self.name} at {self.grain.value} grain",
                expected="groups of requests or impressions in uses",
                fix="Leave it out: no row of another grain belongs to one event.",
            )

    def _refuse_lists(self, cut: Cut, inputs: EventInputs, bare: FeatureGroup) -> None:
        source = self.recipe.source
        refuse_key_names(inputs.events, self.spec.schema_.user, (*source.expressions, *source.columns), self.name)
        inputs.refuse_other_rows(source)
        refuse_own_lists(cut, bare)

    def _still_free(self, group: FeatureGroup) -> Callable[[Mapping[str, FeatureGroup]], None]:
        def check(now: Mapping[str, FeatureGroup]) -> None:
            check_group_name(group.name, now, self.spec.name)
            unclashing(self.tables.metadata(self.spec.name), group, now)

        return check


def typed(frame: DataFrame, types: Mapping[str, str]) -> DataFrame:
    """The columns in the table's types."""
    return frame.select(*(F.col(c).cast(t).alias(c) for c, t in types.items()))
