"""What every job on a feature group does alike: settle, stage beside an empty anchor, audit, publish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame

from dedup_storage.dataset.features.events import EventInputs
from dedup_storage.dataset.features.inputs import Inputs
from dedup_storage.dataset.features.summary import FeatureSummary
from dedup_storage.dataset.features.window import EVERYTHING, Window
from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.errors import ConflictError, DedupStorageError, UsageError
from dedup_storage.faults import reached
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.groups import FeatureGroup, SourceKind, feature_groups, find_group, group_table, table_name
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import Run, Staged
from dedup_storage.lake.publishing import require_described, require_same
from dedup_storage.lake.requests import Request
from dedup_storage.lake.runs import new_attempt
from dedup_storage.layout import COLUMNS_PROPERTY, DEFINITION
from dedup_storage.schema import Grain
from dedup_storage.sources.named import exact_keys
from dedup_storage.spark.steps import TimedSteps

if TYPE_CHECKING:
    from dedup_storage.quality.model import Verdict

__all__ = ["FeatureJob"]


class FeatureJob(TimedSteps):
    """One run on one feature group.

    Args:
        handle: The dataset.
        group: Name of the group.
        run_id: The run; publishing it twice changes nothing.
        job: Name of the job.
        gate: Whether the quality gate audits staged rows.
        named: Whether the run id was given, so that it stands for a request; nobody gives a random one again.
        dry_run: Do every check that is made before anything is staged, say what would be done, and change nothing.
    """

    def __init__(
        self,
        handle: Handle,
        group: str,
        *,
        run_id: str,
        job: str,
        gate: bool = True,
        named: bool = True,
        dry_run: bool = False,
    ) -> None:
        self.handle = handle
        self.tables, self.settings, self.spec = handle.tables, handle.settings, handle.spec
        self.name, self.run_id, self.job, self.named, self.dry_run = group, run_id, job, named, dry_run
        self.gate = gate and handle.settings.quality.enabled
        self.attempt = new_attempt(run_id)
        self.seconds: dict[str, float] = {}
        self._request: Request | None = None

    def begin(self, request: Callable[[], Request]) -> tuple[Cut, FeatureSummary | None]:
        """The newest version, other runs' publications finished first (by a dry run not); and the summary if this run
        is done already.

        Args:
            request: Gives what the run is asked to do; may read a frame.

        Raises:
            UsageError: the dataset has no version yet, or the run is done and was asked something else.
        """
        self._request = request() if self.named else None
        meta = self.handle.metadata() if self.dry_run else self.tables.settle(self.spec)
        require_described(meta, self.spec)
        if not meta.current:
            raise UsageError(f"the dataset {self.spec.name} holds nothing yet", fix="Write a log into it first.")
        cut = Cut(self.handle, meta, meta.current)
        done = require_same(meta, None if self._request is None else self._request.text, self.run_id)
        return cut, None if done is None else self.summary(done, already_published=True)

    def find(self, cut: Cut) -> FeatureGroup:
        """The group in a version.

        Raises:
            UnknownColumnError: there is no such group.
        """
        return find_group(cut.groups, self.name, self.spec.name)

    def inputs(self, cut: Cut, group: FeatureGroup, window: Window) -> Inputs:
        """Frames to compute the group from, for the rows inside a window; at event grain for all events."""
        if group.grain is Grain.EVENT:
            return EventInputs(cut, group)
        return Inputs(
            cut,
            grain=group.grain,
            # Its own columns, once promoted, are what is computed, not what it is computed from.
            groups={name: other for name, other in cut.groups.items() if name != group.name},
            uses=[find_group(cut.groups, name, self.spec.name) for name in group.uses],
            window=window.with_history(group.lookback),
        )

    def keyed(self, frame: DataFrame, keys: DataFrame, key: Sequence[str]) -> DataFrame:
        """A computed frame whose key, and event date where it has one, are those of the log, in the log's types.

        Args:
            frame: As it was computed.
            keys: Of ``Inputs.keys``.
            key: Of ``Inputs.key``.

        Raises:
            InputError: a value of a key column names no key; cut to the log's type it would be another row's.
        """
        kinds = {f.name: f.dataType for f in keys.schema.fields}
        frame = exact_keys(frame, kinds, f"rows of the feature group {self.name}")
        dates = [c for c in kinds if c not in key]
        if all(d in frame.columns for d in dates):
            return frame
        return frame.join(keys.select(*key, *dates), list(key))

    def free_table(
        self,
        cut: Cut,
        columns: Sequence[str],
        types: Mapping[str, str],
        *,
        bundle: bool = False,
        events: int | None = None,
    ) -> str:
        """A new table, or one of these columns that nobody has: left behind by an attempt, or by versions that
        expired.

        Args:
            events: Number of the sequence group of whose events the columns are features; ``None`` for other grains.
        """
        meta, taken = cut.meta, []
        wanted = ", ".join(f"{c} {types[c]}" for c in columns)
        for name in meta.tables:
            if meta.properties(name).get(COLUMNS_PROPERTY) != wanted or not meta.is_free(name):
                taken.append(name)
        return table_name(self.name, taken, bundle=bundle, events=events)

    def run(self, cut: Cut, *tables: str) -> Run:
        """The attempt, and the tables whose rows it changes; feature groups touch no event date of the log."""
        return Run(
            run_id=self.run_id,
            job=self.job,
            attempt=self.attempt,
            base=cut.version,
            tables=tables,
            facts={} if self._request is None else self._request.facts,
        )

    def stage(self, group: FeatureGroup, frame: DataFrame | None, run: Run) -> Staged:
        """Stage rows of a group (``None``: none) with its definition, and an empty snapshot of the anchor.

        The frame may come from a session that others use, and the staged snapshot's name is a session setting.
        """
        run_with = self.with_definition(run, group)
        table = group_table(self.spec, group)
        if frame is None:
            staged = self.tables.stage_nothing(self.spec, table, run_with)
        else:
            moved = move_to(run_session(frame.sparkSession), frame)
            staged = self.tables.stage(self.spec, table, moved, run_with)
        reached("features:staged")
        self.tables.stage_nothing(self.spec, self.spec.anchor, run)
        reached("features:staged-anchor")
        return staged

    @staticmethod
    def with_definition(run: Run, group: FeatureGroup) -> Run:
        """The run that keeps a definition with the snapshot it stages in the group's table."""
        facts = {**run.table_facts.get(group.table, {}), DEFINITION: group.to_json()}
        return replace(run, table_facts={**run.table_facts, group.table: facts})

    def publish(
        self,
        run: Run,
        members: list[str],
        verify: Callable[[Mapping[str, FeatureGroup]], None],
        lists: Callable[[DatasetMetadata], None] = lambda now: None,
    ) -> int:
        """Publish what was staged; ``verify`` sees the groups of versions that appeared meanwhile, ``lists`` all of
        the newest."""

        def check(now: DatasetMetadata) -> None:
            try:
                lists(now)
                verify(feature_groups(now, now.current))
            except DedupStorageError:
                self.tables.discard(self.spec, run)
                raise

        with self.timed("publish"):
            return self.tables.publish(self.spec, run, members, check)

    def unchanged(self, group: FeatureGroup) -> Callable[[Mapping[str, FeatureGroup]], None]:
        """A check that nobody else changed the group while this run worked."""

        def check(now: Mapping[str, FeatureGroup]) -> None:
            if now.get(group.name) != group:
                raise ConflictError(
                    f"another run changed the feature group {group.name} of {self.spec.name} first",
                    fix="Nothing was published. Run the job again.",
                )

        return check

    def audit(self, group: FeatureGroup, staged: DataFrame, keys: DataFrame) -> Verdict | None:
        """Let the quality gate judge staged rows against the keys of the log; ``None`` with the gate off.

        Raises:
            QualityGateError: it refuses.
        """
        if not self.gate:
            return None
        from dedup_storage.quality import require
        from dedup_storage.quality.features import run_feature_gate

        with self.timed("gate"):
            verdict = run_feature_gate(
                spec=self.spec, settings=self.settings, run_id=self.run_id, group=group, staged=staged, keys=keys
            )
        require(verdict)
        return verdict

    def prepare_gate(self) -> None:
        """Refuse what the gate could not work with before anything is computed."""
        if not self.gate:
            return
        from dedup_storage.quality import check_gate_settings, warm_up

        check_gate_settings(spec=self.spec, settings=self.settings, run_id=self.run_id)
        if not self.dry_run:
            warm_up()

    def planned(
        self,
        cut: Cut,
        group: FeatureGroup,
        rows: int | None,
        *,
        window: Window = EVERYTHING,
        replaced: bool = False,
        computed: bool = True,
    ) -> FeatureSummary:
        """What the job would do.

        Args:
            cut: The version that it would start from.
            group: The group as it would be.
            rows: Rows that would be written; ``None`` where computing them alone tells.
            window: The rows that would be computed.
            replaced: Whether rows of the window are there already.
            computed: Whether values are computed, which the gate judges.
        """
        hints = ("the values, and what the gate says of them, are looked at by the run itself alone",)
        return self.summary(cut.version, group, window=window, replaced=replaced).model_copy(
            update={"dates": window.ranges, "rows": rows, "hints": hints if computed else ()}
            | ({"gate": "not asked"} if computed and self.gate else {})
        )

    def rows_of(self, group: FeatureGroup, keys: DataFrame) -> int | None:
        """Rows of computed values for some keys; ``None`` where computing them alone tells which keys get one."""
        judged = self.gate and (group.source.kind is SourceKind.JOIN or group.missing == "refuse")
        return keys.count() if judged or group.source.kind is SourceKind.EXPRESSION else None

    def summary(
        self,
        version: int,
        group: FeatureGroup | None = None,
        *,
        window: Window = EVERYTHING,
        staged: Staged | None = None,
        verdict: Verdict | None = None,
        replaced: bool = False,
        already_published: bool = False,
        up_to_date: bool = False,
    ) -> FeatureSummary:
        """What the job did.

        Args:
            version: The version that holds the result.
            group: The group as that version has it; ``None`` when nothing was done.
            window: The rows that were computed.
            staged: What was written; ``None`` for nothing.
            verdict: The gate's; ``None`` when it did not judge.
            replaced: Whether rows of the window were there before.
            already_published, up_to_date: Why nothing was done.
        """
        return FeatureSummary(
            dataset=self.spec.name,
            group=self.name,
            run_id=self.run_id,
            job=self.job,
            version=version,
            dry_run=self.dry_run,
            already_published=already_published,
            up_to_date=up_to_date,
            grain=group.grain.value if group is not None else "",
            table=group.home if group is not None else "",
            columns=group.names if group is not None else (),
            dates=window.ranges if staged is not None else (),
            buckets=window.buckets,
            replaced=replaced,
            rows=staged.rows if staged is not None else 0,
            bytes=staged.bytes if staged is not None else 0,
            files=staged.files if staged is not None else 0,
            gate="passed" if verdict is not None else "off",
            docs=verdict.docs if verdict is not None else None,
            seconds=self.seconds,
        )
