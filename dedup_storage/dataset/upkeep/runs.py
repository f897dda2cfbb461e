"""Maintenance and erasure of one dataset, whatever its table format."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.upkeep.decay import Limits
from dedup_storage.dataset.upkeep.forget import Forgetting
from dedup_storage.dataset.upkeep.forget_summary import ForgetSummary
from dedup_storage.dataset.upkeep.maintain import Maintenance
from dedup_storage.dataset.upkeep.maintain_summary import MaintainSummary
from dedup_storage.lake.runs import named_run
from dedup_storage.lake.upkeep import Policy
from dedup_storage.spark.errors import translated

__all__ = ["forget_users", "maintain"]


def maintain(
    handle: Handle,
    run_id: str | None = None,
    *,
    limits: Limits | None = None,
    policy: Policy | None = None,
    runs: bool = False,
    compact: bool = True,
    events: bool = True,
    expire: bool = True,
    orphans: bool = True,
    bundle_from: int | None = None,
    dry_run: bool = False,
) -> MaintainSummary:
    """Lay lists of many runs anew, restore the order of decayed segments, drop events that nothing refers to, expire
    versions by policy, remove orphans; bundle feature groups.

    Args:
        handle: The dataset.
        run_id: Name of the run; the version of its compaction.
        limits: What counts as decayed.
        policy: Which versions stay.
        runs, compact, events, expire, orphans: Which steps to take.
        bundle_from: Bundle a grain's feature groups once so many tables hold them; ``None`` leaves them.
        dry_run: Measure and tell, change nothing.

    Raises:
        UsageError: ``bundle_from`` is less than 2.
        ConflictError: another run changed a group that was to be bundled; it is not, run again.
    """
    run_id = named_run(run_id, "maintain")
    return Maintenance(
        handle, run_id=run_id, limits=limits, policy=policy, runs=runs,
        compact=compact, events=events, expire=expire, orphans=orphans, bundle_from=bundle_from, dry_run=dry_run,
    ).run()  # fmt: skip


def forget_users(
    handle: Handle, users: Sequence[int | str] | DataFrame, run_id: str | None = None, *, dry_run: bool = False
) -> ForgetSummary:
    """Erase users from every table and every kept version, and scan the files for them.

    Args:
        handle: The dataset.
        users: Ids, or a frame with the user column (its first column when it has only one).
        run_id: Name of the run; running it again finishes what is left.
        dry_run: Count, change nothing.

    Returns:
        What was done, which is the erasure's receipt; of a run that is done already, the receipt of then.

    Raises:
        UsageError: no user is given, a run is at work on the dataset, the run id was given with other users, or the
            run is done and some of the users are there again.
        ConflictError: another run changed the same segments first; run again.
    """
    handle.require("erasing users")
    run_id = named_run(run_id, "forget-user")
    with translated():
        return Forgetting(handle, users, run_id=run_id, dry_run=dry_run).run()
