"""One maintenance run: bundle feature groups, lay lists anew, measure, compact, drop events, expire, remove orphans."""

from __future__ import annotations

from functools import partial

from dedup_storage.dataset.backfill.other_parts import refuse_other_parts
from dedup_storage.dataset.features.bundle import Bundler
from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.upkeep.decay import Limits
from dedup_storage.dataset.upkeep.lay_anew import LayingAnew
from dedup_storage.dataset.upkeep.maintain_summary import Gain, LaidAnew, MaintainSummary
from dedup_storage.dataset.upkeep.restore import Restoring
from dedup_storage.dataset.upkeep.steps import refuse_idle_limits
from dedup_storage.errors import UsageError
from dedup_storage.lake.bundles import BundlePlan, bundle_run, plan_bundle
from dedup_storage.lake.groups import by_table, feature_groups
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.publishing import require_same
from dedup_storage.lake.requests import NOTHING, Request
from dedup_storage.lake.upkeep import Outdated, Policy, TableExpiry, Upkeep
from dedup_storage.schema import Grain
from dedup_storage.spark.errors import translated
from dedup_storage.spark.steps import TimedSteps

__all__ = ["Maintenance"]

# Tables that can be brought together.
_FEWEST = 2


class Maintenance(TimedSteps):
    """Keeps one dataset healthy.

    Args:
        handle: The dataset.
        run_id: Names the version of the compaction. Where that is published, the run bundles and compacts no more: it
            finishes what is left to expire and to clean.
        limits: What counts as decayed.
        policy: Which versions stay, and how long files that nothing names do.
        runs, compact, events, expire, orphans: Which steps to take; a log that lies as it was adopted is never
            compacted, and only in layout ``user`` there are lists to lay anew and events to drop.
        bundle_from: Bundle a grain's feature groups once so many tables hold them; ``None`` leaves them.
        dry_run: Measure and tell, change nothing.

    Raises:
        UsageError: a limit counts in no step that is taken.
    """

    def __init__(
        self,
        handle: Handle,
        *,
        run_id: str,
        limits: Limits | None = None,
        policy: Policy | None = None,
        runs: bool = False,
        compact: bool = True,
        events: bool = True,
        expire: bool = True,
        orphans: bool = True,
        bundle_from: int | None = None,
        dry_run: bool = False,
    ) -> None:
        if bundle_from is not None and bundle_from < _FEWEST:
            raise UsageError("one table is no bundle", expected=f"{_FEWEST} tables or more", got=str(bundle_from))
        self.handle, self.tables, self.spec = handle, handle.tables, handle.spec
        self.run_id, self.dry_run = run_id, dry_run
        self.limits, self.policy = limits or Limits(), policy or Policy()
        self.bundle_from = bundle_from
        given = {"runs": runs, "compact": compact, "events": events, "expire": expire, "orphans": orphans}
        taken = [step for step, told in given.items() if told]
        refuse_idle_limits(taken, self.limits, self.policy)
        self.compact, self.expire, self.orphans = compact and not handle.spec.adopted, expire, orphans
        self.runs, self.events = (asked and bool(handle.spec.events) for asked in (runs, events))
        self.seconds: dict[str, float] = {}

    def run(self) -> MaintainSummary:
        """Do it.

        Raises:
            VersionNotFoundError: the dataset holds no version yet.
            UsageError: its format cannot maintain it, or the run id stands for another request.
        """
        with translated():
            meta = self._settled()
            meta.resolve(None)
            request = self._asked()
            done = require_same(meta, request.text, self.run_id)
            refuse_other_parts(self.tables, meta, self._asked, self.run_id)
            restoring = Restoring(
                self.handle, self.run_id, self.limits, request, compact=self.compact, events=self.events
            )
            if done is not None and not self.dry_run:
                restoring.drop_own(meta)
                meta = self.handle.metadata()
            bundles = self._bundle(meta) if done is None else ()
            if bundles and not self.dry_run:
                meta = self._settled()
            laid = self._lay_anew(meta, request) if done is None else ()
            own = any(one.requests and one.skipped is None for one in laid)
            if own and not self.dry_run:
                meta = self._settled()
            before = len(bundles) + own
            upkeep = self._upkeep()
            stored = upkeep.stored_bytes()
            gains: tuple[Gain, ...] = ()
            if self.compact or self.events:
                with self.timed("compact"):
                    gains = restoring.run(meta, partial(self._kept, before), done=done, dry_run=self.dry_run)
                upkeep = self._upkeep()
            # What a dry run does not publish counts among the newest versions all the same.
            coming = before + any(g.decayed_segments and not g.skipped for g in gains) if self.dry_run else 0
            outdated = self._expire(upkeep, coming) if self.expire else None
            with self.timed("clean"):
                expiry = upkeep.clean(outdated, orphans=self.orphans, dry_run=self.dry_run)
            summary = self._summary(gains, outdated or Outdated(), expiry, stored, bundles, laid)
            return summary.model_copy(update={"already_published": done is not None})

    def _asked(self) -> Request:
        """What is asked for, as far as the run id stands for it: a compaction by other limits is another one."""
        steps = {
            "runs": self.runs,
            "compact": self.compact,
            "events": self.events,
            "expire": self.expire,
            "orphans": self.orphans,
        }
        bounds = {**self.limits.model_dump(), **self.policy.model_dump()}
        if not self.events:
            del bounds["unreferenced_share"]
        if not self.runs:
            del bounds["runs_share"]
        return Request.of("maintain").with_texts(
            steps=" and ".join(step for step, taken in steps.items() if taken) or NOTHING,
            bundle_from=NOTHING if self.bundle_from is None else str(self.bundle_from),
            **{name: str(value) for name, value in bounds.items()},
        )

    def _bundle(self, meta: DatasetMetadata) -> tuple[BundlePlan, ...]:
        """Bring the feature groups of each grain together where they lie in many tables."""
        if self.bundle_from is None:
            return ()
        plans, groups = [], feature_groups(meta, meta.current).values()
        for grain in (Grain.REQUEST, Grain.IMPRESSION):
            there = by_table(group for group in groups if group.grain is grain and group.promoted is None)
            if len(there) < self.bundle_from:
                continue
            name, names = f"{grain.value}s", [group.name for listed in there.values() for group in listed]
            plans.append(plan_bundle(meta, meta.current, name, names))
            if not self.dry_run:
                with self.timed("bundle"):
                    Bundler(self.handle.for_run(), name, names, run_id=bundle_run(self.run_id, name)).bundle()
        return tuple(plans)

    def _lay_anew(self, meta: DatasetMetadata, request: Request) -> tuple[LaidAnew, ...]:
        """Lay users' lists anew where requests' lists are many runs of them."""
        if not self.runs:
            return ()
        with self.timed("runs"):
            laying = LayingAnew(self.handle, self.run_id, self.limits.runs_share, request)
            return laying.run(meta, dry_run=self.dry_run)

    def _settled(self) -> DatasetMetadata:
        if self.dry_run:
            return self.handle.metadata()
        rewrites = self.runs or self.compact or self.events
        return self.tables.take_in(self.spec) if rewrites else self.tables.settle(self.spec)

    def _kept(self, before: int, meta: DatasetMetadata) -> list[int]:
        """The versions that stay once this run's own is there and the others are expired."""
        coming = 1 + (before if self.dry_run else 0)
        gone = self._upkeep().outdated(coming).versions if self.expire else ()
        return [number for number in meta.version_numbers if number not in gone]

    def _upkeep(self) -> Upkeep:
        return self.tables.upkeep(self.spec, self.policy)

    def _expire(self, upkeep: Upkeep, coming: int) -> Outdated:
        with self.timed("expire"):
            outdated = upkeep.outdated(coming)
            if not self.dry_run:
                outdated = upkeep.expire(outdated)
        return outdated

    def _summary(
        self,
        gains: tuple[Gain, ...],
        outdated: Outdated,
        expiry: tuple[TableExpiry, ...],
        stored: int,
        bundles: tuple[BundlePlan, ...],
        laid: tuple[LaidAnew, ...],
    ) -> MaintainSummary:
        meta = self.handle.metadata()
        return MaintainSummary(
            dataset=self.spec.name,
            run_id=self.run_id,
            version=meta.current,
            compacted=meta.version_of_run(self.run_id),
            dry_run=self.dry_run,
            bundles=bundles,
            runs=laid,
            compaction=gains,
            expired_versions=outdated.versions,
            kept_versions=tuple(n for n in meta.version_numbers if n not in outdated.versions),
            abandoned_branches=tuple(f"{table}.{branch}" for table, branch in outdated.branches),
            expiry=expiry,
            stored_bytes_before=stored,
            stored_bytes_after=stored if self.dry_run else self._upkeep().stored_bytes(),
            seconds=self.seconds,
        )
