"""Erasure from Delta tables: every kept version made anew without the users, old files and their log removed, a scan.

Each step finds by itself what is left to do, so an erasure that was killed is finished by running it again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import ConflictError, UsageError
from dedup_storage.faults import reached
from dedup_storage.layout import DatasetSpec
from dedup_storage.spark.errors import translated
from dedup_storage.spark.forget.delta_table import TableEraser
from dedup_storage.spark.forget.summary import ForgetSummary, TableErasure, signed
from dedup_storage.spark.sources import typed_users
from dedup_storage.spark.steps import TimedSteps
from dedup_storage.tables.delta import DeltaFormat
from dedup_storage.tables.delta_metadata import DeltaMetadata
from dedup_storage.tables.history import DatasetMetadata
from dedup_storage.tables.protocol import Run

__all__ = ["DeltaForgetting"]

# How often it begins anew because others published meanwhile.
_ATTEMPTS = 3


class DeltaForgetting(TimedSteps):
    """Erases users from one dataset of Delta tables.

    Args:
        spark, tables, settings, spec: The dataset.
        users: Ids in one column (or in the user column).
        run_id: The run; running it again finishes what is left.
        dry_run: Count, change nothing.
    """

    def __init__(
        self,
        spark: SparkSession,
        tables: DeltaFormat,
        settings: Settings,
        spec: DatasetSpec,
        users: DataFrame,
        *,
        run_id: str,
        dry_run: bool = False,
    ) -> None:
        self.spark, self.tables, self.settings, self.spec = spark, tables, settings, spec
        self.run_id, self.dry_run = run_id, dry_run
        self._given = users
        self.seconds: dict[str, float] = {}

    def run(self) -> ForgetSummary:
        """Do it.

        Raises:
            UsageError: no user is given, or rows of theirs are staged by a run that is at work or was stopped.
            ConflictError: other runs kept publishing meanwhile; run again.
        """
        with translated():
            meta = self._settled()
            meta.resolve(None)
            anchor = self.spec.anchor.name
            rows = self.tables.read(self.spec.name, anchor, meta.snapshots(meta.current)[anchor])
            user = self.spec.schema_.user
            self.users = typed_users(self._given, user, rows.schema[user].dataType).persist()
            try:
                count = self.users.count()
                if not count:
                    raise UsageError("no user is given")
                for attempt in range(_ATTEMPTS):
                    try:
                        return self._run(self._settled() if attempt else meta, count)
                    except _OvertakenError:
                        continue
                raise ConflictError(
                    f"other runs kept publishing to {self.spec.name} while users were erased from it",
                    fix="Nothing was erased. Run the job again with the same run id.",
                )
            finally:
                self.users.unpersist()

    def _settled(self) -> DeltaMetadata:
        return self.tables.metadata(self.spec.name) if self.dry_run else self.tables.settle(self.spec)

    def _run(self, meta: DeltaMetadata, count: int) -> ForgetSummary:
        busy = [f"{name}.{branch}" for name in meta.tables for branch in self.tables.branches(self.spec.name, name)]
        if busy and not self.dry_run:
            raise UsageError(
                f"runs are at work on {self.spec.name}, or were stopped there: {', '.join(busy)}",
                fix="Nothing was changed. Finish them, or drop them with maintain --abandoned-days 0.",
            )
        erasers = self._erasers(meta)
        with self.timed("find"):
            found = {name: eraser.found for name, eraser in erasers.items()}
        staged = sorted(name for name, f in found.items() if f.staged)
        if staged and not self.dry_run:
            raise UsageError(
                f"rows of the users are staged in {', '.join(staged)} of {self.spec.name}, by runs at work or stopped",
                fix="Nothing was changed. Finish these runs; maintain takes away what was staged days ago.",
            )
        versions = sorted({v for name, f in found.items() for v in self._versions(meta, name, f.touched)})
        erasures = {
            name: TableErasure(
                table=name,
                rows=erasers[name].count(f.current_files),
                files=len(f.touched),
            )
            for name, f in found.items()
        }
        if self.dry_run:
            return self._summary(count, meta.current, (), erasures, clean=None)
        again = dict.fromkeys(erasers, 0)
        if any(eraser.unclean for eraser in erasers.values()) and meta.version_of_run(self.run_id) is None:
            with self.timed("versions"):
                again = self._make_anew(meta, erasers)
        meta = self.tables.metadata(self.spec.name)
        with self.timed("remove"):
            for name, eraser in self._erasers(meta).items():
                eraser.remove(self.tables.table_log(self.spec.name, name))
        reached("forget:removed")
        with self.timed("scan"):
            left = {name: eraser.left() for name, eraser in self._erasers(meta).items()}
        erasures = {
            name: e.model_copy(
                update={"snapshots_rewritten": again[name], "rows_left": left[name][0], "snapshots_left": left[name][1]}
            )
            for name, e in erasures.items()
        }
        clean = not any(e.rows_left or e.snapshots_left for e in erasures.values())
        return self._summary(count, meta.current, versions if any(again.values()) else (), erasures, clean=clean)

    def _erasers(self, meta: DeltaMetadata) -> dict[str, TableEraser]:
        made = {n: TableEraser(self.spark, self.tables, self.settings, meta, n, self.users) for n in meta.tables}
        return {name: eraser for name, eraser in made.items() if eraser.has_users}

    def _versions(self, meta: DeltaMetadata, table: str, touched: Mapping[str, frozenset[int]]) -> set[int]:
        """Versions that name one of the touched files of a table."""
        hit = {snapshot for snapshots in touched.values() for snapshot in snapshots}
        return {v for v in meta.version_numbers if meta.snapshots(v).get(table) in hit}

    def _make_anew(self, meta: DeltaMetadata, erasers: Mapping[str, TableEraser]) -> dict[str, int]:
        """Publish a version without the users that also makes every kept one anew; gives how many of each table."""
        attempt = f"{self.run_id}/{uuid.uuid4().hex[:12]}"
        run = Run(
            run_id=self.run_id,
            job="forget-user",
            attempt=attempt,
            base=meta.current,
            dates=None,
            facts={"mode": "forget", "kind": self.tables.relay_kind},
        )
        again = {}
        try:
            for name, eraser in erasers.items():
                relay = eraser.relay()
                self.tables.stage_relay(self.spec, run, relay)
                again[name] = len(eraser.hit)
                reached("forget:written")
            self.tables.publish(self.spec, run, list(self._members(meta, erasers)), _overtaken)
        except BaseException:
            self.tables.discard(self.spec, run)
            raise
        reached("forget:published")
        return again

    def _members(self, meta: DeltaMetadata, names: Iterable[str]) -> list[str]:
        current = meta.snapshots(meta.current)
        return [name for name in names if name in current]

    def _summary(
        self,
        count: int,
        version: int,
        versions: list[int] | tuple[int, ...],
        erasures: Mapping[str, TableErasure],
        *,
        clean: bool | None,
    ) -> ForgetSummary:
        summary = ForgetSummary(
            dataset=self.spec.name,
            run_id=self.run_id,
            dry_run=self.dry_run,
            users=count,
            version=version,
            versions_rewritten=tuple(versions),
            clean=clean,
            tables=tuple(erasures.values()),
            seconds=self.seconds,
        )
        return signed(summary)


class _OvertakenError(Exception):
    """Another run published since the users' rows were looked for."""


def _overtaken(_: DatasetMetadata) -> None:
    raise _OvertakenError
