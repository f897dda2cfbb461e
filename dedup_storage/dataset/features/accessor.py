"""Feature groups of a dataset as ``Dataset.features`` gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dedup_storage.choices import choice
from dedup_storage.dataset.features.add import Adder
from dedup_storage.dataset.features.bundle import Bundler
from dedup_storage.dataset.features.job import FeatureJob
from dedup_storage.dataset.features.manage import drop, rename
from dedup_storage.dataset.features.promote import promote
from dedup_storage.dataset.features.recipe import Source
from dedup_storage.dataset.features.refresh import Refresher
from dedup_storage.dataset.features.summary import FeatureSummary
from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.lineage import Accounts, run_told
from dedup_storage.lake.bundles import BundlePlan, plan_bundle
from dedup_storage.lake.groups import FeatureGroup
from dedup_storage.lake.runs import named_run
from dedup_storage.lineage.model import Account
from dedup_storage.schema import Grain
from dedup_storage.spark.errors import translated

__all__ = ["Features"]


class Features:
    """Feature groups of a dataset: columns added later, none of the tables before them rewritten.

    Calling it lists the groups of a version: ``ds.features()``.

    Args:
        handle: The dataset.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __call__(self, version: int | None = None) -> dict[str, FeatureGroup]:
        """The feature groups of a version, by name, with their lineage; ``None`` takes the newest version."""
        return self._handle.cut(version).groups

    def add(
        self,
        name: str,
        source: Source,
        *,
        grain: Grain | str = Grain.REQUEST,
        lookback: int | None = 0,
        uses: Sequence[str] = (),
        across_users: bool = False,
        missing: str = "refuse",
        not_null: Iterable[str] | bool = (),
        sequence: str | None = None,
        run_id: str | None = None,
        gate: bool = True,
        dry_run: bool = False,
    ) -> FeatureSummary:
        """Compute new columns and publish them as a feature group.

        Args:
            name: Name of the group.
            source: Column -> SQL expression over the grain's columns (at impression grain also the request's); a
                ``Lookup``; a function of the grain's frame, or of (requests, impressions), that gives the key and the
                columns; or such a frame. At event grain no function, and expressions over one event alone.
            grain: ``request``, ``impression`` or ``event`` (layout ``user``): what one row stands for.
            lookback: A row depends on the rows of its user of so many days before its own event date; ``None`` for the
                whole history. ``refresh`` reads no more than that, and computes again what it reaches.
            uses: Other groups whose columns the frames have too.
            across_users: A row depends on other users' rows as well.
            missing: ``refuse`` when the log has keys that the source does not have, or let them be ``null``.
            not_null: Columns in which nulls are refused; ``True`` for all.
            sequence: At event grain the sequence group of whose events a row is; ``None`` for the only one.
            run_id: Name of the run; one that is published already changes nothing.
            gate: Audit the staged rows before publication.
            dry_run: Check names, columns, types and the run, say what would be added, and change nothing.

        Raises:
            UsageError, InputError, QualityGateError, ConflictError: nothing was published.
        """
        with translated():
            adder = Adder(
                self._handle.for_run(),
                name,
                source,
                grain=choice(Grain, grain, "grain"),
                run_id=named_run(run_id, "add-features"),
                lookback=lookback,
                uses=uses,
                across_users=across_users,
                missing=missing,
                not_null=not_null,
                sequence=sequence,
                gate=gate,
                named=run_id is not None,
                dry_run=dry_run,
            )
            return self._told(adder, adder.add, Accounts.features)

    def refresh(
        self,
        name: str,
        source: Source | None = None,
        *,
        run_id: str | None = None,
        full: bool = False,
        gate: bool = True,
        dry_run: bool = False,
    ) -> FeatureSummary:
        """Compute what is new or changed since a group was computed: new dates, late rows, rewritten segments.

        Args:
            name: The group.
            source: Its function or frame, where the definition does not name one that can be imported; another one
                goes with ``full``.
            run_id: Name of the run.
            full: Compute every row again.
            gate: Audit the staged rows before publication.
            dry_run: Say which dates and rows would be computed, and change nothing.

        Raises:
            UsageError, InputError, QualityGateError, ConflictError: nothing was published.
        """
        with translated():
            job = Refresher(
                self._handle.for_run(),
                name,
                source,
                run_id=named_run(run_id, "refresh-features"),
                full=full,
                gate=gate,
                named=run_id is not None,
                dry_run=dry_run,
            )
            return self._told(job, job.refresh, Accounts.features)

    def rename(self, name: str, new_name: str, *, run_id: str | None = None, dry_run: bool = False) -> FeatureSummary:
        """Publish a version in which a group has another name; with ``dry_run`` only say whether that can be done.

        Raises:
            UsageError: the name is taken, or another group reads this one.
        """
        with translated():
            job = self._job(name, "rename-features", run_id, dry_run)
            return self._told(job, lambda: rename(job, new_name), Accounts.write)

    def drop(self, name: str, *, run_id: str | None = None, dry_run: bool = False) -> FeatureSummary:
        """Publish a version without a group; older versions keep it.

        With ``dry_run`` only say whether that can be done.

        Raises:
            UsageError: another group reads it.
        """
        with translated():
            job = self._job(name, "drop-features", run_id, dry_run)
            return self._told(job, lambda: drop(job), Accounts.drop)

    def promote(self, name: str, *, run_id: str | None = None, dry_run: bool = False) -> FeatureSummary:
        """Rewrite the table of a group's grain with the group's columns in it, so that reading joins nothing.

        With ``dry_run`` only say how many rows would be rewritten.

        Raises:
            UsageError: it is promoted already.
            ConflictError: another run published a version meanwhile; run again.
        """
        with translated():
            self._handle.require("promoting a feature group")
            job = self._job(name, "promote-features", run_id, dry_run)
            return self._told(job, lambda: promote(job), Accounts.move)

    def _told(
        self,
        job: FeatureJob,
        work: Callable[[], FeatureSummary],
        account: Callable[[Accounts, FeatureSummary], Account],
    ) -> FeatureSummary:
        return run_told(self._handle, job.job, job.run_id, work, account, subject=job.name, dry_run=job.dry_run)

    def bundle(self, name: str, groups: Sequence[str], *, run_id: str | None = None) -> FeatureSummary:
        """Bring feature groups of one grain into one table of their own, so that reading them joins once.

        The groups keep their names, lineage and rules, and the tables of the log stay as they are. Groups that lie in
        bundles already are taken out of them; one alone gets a table for itself.

        Args:
            name: Name of the bundle, for its table.
            groups: Names of the groups.
            run_id: Name of the run; one that is published already changes nothing.

        Raises:
            UsageError, UnknownColumnError: these groups cannot share a table; ``plan_bundle`` says the same.
            ConflictError: another run changed one of the groups first; nothing was published.
        """
        with translated():
            chosen = named_run(run_id, "bundle-features")
            job = Bundler(self._handle.for_run(), name, groups, run_id=chosen, named=run_id is not None)
            return self._told(job, job.bundle, Accounts.move)

    def plan_bundle(self, name: str, groups: Sequence[str]) -> BundlePlan:
        """What ``bundle`` would do to the newest version, from metadata alone: rows, bytes, joins, and whether it pays.

        Raises:
            UsageError, UnknownColumnError: these groups cannot share a table.
        """
        return plan_bundle(self._handle.metadata(), None, name, groups)

    def _job(self, name: str, job: str, run_id: str | None, dry_run: bool) -> FeatureJob:
        named = named_run(run_id, job)
        return FeatureJob(self._handle, name, run_id=named, job=job, named=run_id is not None, dry_run=dry_run)
