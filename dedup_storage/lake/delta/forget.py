"""Erasure from Delta tables: every kept version made anew without the users, old files and their log removed, a scan.

Each step finds by itself what is left to do, so an erasure that was killed is finished by running it again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping

from dedup_storage.dataset.upkeep.forget import ForgettingBase
from dedup_storage.dataset.upkeep.forget_summary import ForgetSummary, TableErasure
from dedup_storage.errors import ConflictError, UsageError
from dedup_storage.faults import reached
from dedup_storage.lake.delta.erase import TableEraser
from dedup_storage.lake.delta.format import DeltaFormat
from dedup_storage.lake.delta.metadata import DeltaMetadata
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import Run

__all__ = ["DeltaForgetting"]

# How often it begins anew because others published meanwhile.
_ATTEMPTS = 3


class DeltaForgetting(ForgettingBase[DeltaFormat, DeltaMetadata]):
    """Erases users from one dataset of Delta tables; rows of theirs that a run has staged refuse it too."""

    def _erase(self, meta: DeltaMetadata, count: int) -> ForgetSummary:
        for attempt in range(_ATTEMPTS):
            try:
                return self._run(self._settled() if attempt else meta, count)
            except _OvertakenError:
                continue
        raise ConflictError(
            f"other runs kept publishing to {self.spec.name} while users were erased from it",
            fix="Nothing was erased. Run the job again with the same run id.",
        )

    def _run(self, meta: DeltaMetadata, count: int) -> ForgetSummary:
        tables, name = self.tables, self.spec.name
        self._refuse_busy(f"{table}.{branch}" for table in meta.tables for branch in tables.branches(name, table))
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


class _OvertakenError(Exception):
    """Another run published since the users' rows were looked for."""


def _overtaken(_: DatasetMetadata) -> None:
    raise _OvertakenError
