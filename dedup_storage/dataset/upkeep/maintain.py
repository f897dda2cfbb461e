"""One maintenance run: measure, compact, expire, remove orphans."""

from __future__ import annotations

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.upkeep.decay import Limits
from dedup_storage.dataset.upkeep.maintain_summary import Gain, MaintainSummary
from dedup_storage.dataset.upkeep.restore import Restoring
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.upkeep import Outdated, Policy, TableExpiry, Upkeep
from dedup_storage.spark.errors import translated
from dedup_storage.spark.steps import TimedSteps

__all__ = ["Maintenance"]


class Maintenance(TimedSteps):
    """Keeps one dataset healthy.

    Args:
        handle: The dataset.
        run_id: Names the version of the compaction.
        limits: What counts as decayed.
        policy: Which versions stay, and how long files that nothing names do.
        compact, expire, orphans: Which steps to take; a log that lies as it was adopted is never compacted.
        dry_run: Measure and tell, change nothing.
    """

    def __init__(
        self,
        handle: Handle,
        *,
        run_id: str,
        limits: Limits | None = None,
        policy: Policy | None = None,
        compact: bool = True,
        expire: bool = True,
        orphans: bool = True,
        dry_run: bool = False,
    ) -> None:
        self.handle, self.tables, self.spec = handle, handle.tables, handle.spec
        self.run_id, self.dry_run = run_id, dry_run
        self.limits, self.policy = limits or Limits(), policy or Policy()
        self.compact, self.expire, self.orphans = compact and not handle.spec.adopted, expire, orphans
        self.seconds: dict[str, float] = {}

    def run(self) -> MaintainSummary:
        """Do it.

        Raises:
            VersionNotFoundError: the dataset holds no version yet.
            UsageError: its format cannot maintain it.
        """
        with translated():
            meta = self._settled()
            meta.resolve(None)
            restoring = Restoring(self.handle, self.run_id, self.limits)
            if not self.dry_run and meta.version_of_run(self.run_id) is not None:
                restoring.drop_own(meta)
                meta = self.handle.metadata()
            upkeep = self._upkeep()
            stored = upkeep.stored_bytes()
            gains: tuple[Gain, ...] = ()
            if self.compact:
                with self.timed("compact"):
                    gains = restoring.run(meta, dry_run=self.dry_run)
                upkeep = self._upkeep()
            outdated = self._expire(upkeep) if self.expire else None
            with self.timed("clean"):
                expiry = upkeep.clean(outdated, orphans=self.orphans, dry_run=self.dry_run)
            return self._summary(gains, outdated or Outdated(), expiry, stored)

    def _settled(self) -> DatasetMetadata:
        if self.dry_run:
            return self.handle.metadata()
        return self.tables.take_in(self.spec) if self.compact else self.tables.settle(self.spec)

    def _upkeep(self) -> Upkeep:
        return self.tables.upkeep(self.spec, self.policy)

    def _expire(self, upkeep: Upkeep) -> Outdated:
        with self.timed("expire"):
            outdated = upkeep.outdated()
            if not self.dry_run:
                outdated = upkeep.expire(outdated)
        return outdated

    def _summary(
        self, gains: tuple[Gain, ...], outdated: Outdated, expiry: tuple[TableExpiry, ...], stored: int
    ) -> MaintainSummary:
        meta = self.handle.metadata()
        return MaintainSummary(
            dataset=self.spec.name,
            run_id=self.run_id,
            version=meta.current,
            dry_run=self.dry_run,
            compaction=gains,
            expired_versions=outdated.versions,
            kept_versions=tuple(n for n in meta.version_numbers if n not in outdated.versions),
            abandoned_branches=tuple(f"{table}.{branch}" for table, branch in outdated.branches),
            expiry=expiry,
            stored_bytes_before=stored,
            stored_bytes_after=stored if self.dry_run else self._upkeep().stored_bytes(),
            seconds=self.seconds,
        )
