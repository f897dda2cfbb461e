"""``dedup-storage forget-user``: users out of every table and every kept version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dedup_storage.cli.options import DatasetOption, RunIdOption
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import StorageError, UsageError
from dedup_storage.schema import check_name
from dedup_storage.words import counted

if TYPE_CHECKING:
    from dedup_storage.dataset.upkeep import ForgetSummary

__all__ = ["forget_user"]


@job
def forget_user(
    job: Job,
    dataset: DatasetOption,
    users: Annotated[
        str | None, typer.Option(help="File of user ids, one a line. Ids on a command line end up in logs.")
    ] = None,
    users_table: Annotated[str | None, typer.Option(help="User ids: a table's name or a path.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")] = False,
    verify: Annotated[
        Path | None,
        typer.Option(help="Receipt of these users' erasure, as --json wrote it: look again whether they are gone."),
    ] = None,
    run_id: RunIdOption = None,
) -> None:
    """Erase users from every table and every kept version, and scan the files for them."""
    check_name(dataset, "dataset name")
    if (users is None) == (users_table is None):
        raise UsageError("no users to forget are named", expected="--users or --users-table")
    if verify is not None and (dry_run or run_id is not None):
        raise UsageError(
            "a receipt names its run, and looking changes nothing",
            expected="--verify alone", got="--dry-run" if dry_run else "--run-id",
        )  # fmt: skip
    with job.dataset(dataset, users_table) as target:
        from dedup_storage.sources.named import read_frame, read_ids

        user = (target.schema.user,)
        named = (
            read_ids(users, job.store)
            if users is not None
            else read_frame(target.spark, str(users_table), keys=user, needed=user)
        )
        if verify is not None:
            with job.step(f"Looking for users in {dataset}", target.spark):
                proof = target.verify_erasure(verify, named)
            job.done(f"Looked for erased users in {dataset}", proof)
            if proof.finding is not None:
                raise StorageError(
                    f"it is not proved that the users of the receipt are gone from {dataset}: {proof.finding}",
                    fix=proof.remedy,
                )
            return
        with job.step(f"Forgetting users of {dataset}", target.spark):
            summary = target.forget_users(named, run_id, dry_run=dry_run)
    done = "Would forget" if dry_run else "Already forgot" if summary.already_done else "Forgot"
    job.done(f"{done} users of {dataset}", summary)
    if summary.clean is False:
        from dedup_storage.dataset.upkeep.verify import LEFT_BY_RUNS

        raise StorageError(
            f"the scan still found {_left(summary)}",
            fix=f"{LEFT_BY_RUNS} Then run this job again with the same run id.",
        )


def _left(summary: ForgetSummary) -> str:
    """What the final scan found, in words."""
    rows, torn, bounds = (
        sum(getattr(table, name) or 0 for table in summary.tables)
        for name in ("rows_left", "unreadable_files", "bounds_left")
    )
    found = {
        f"{counted(rows, 'row')} of these users": rows,
        f"{counted(torn, 'file')} that cannot be read": torn,
        f"{counted(bounds, 'entry')} in manifests or logs": bounds,
    }
    return " and ".join(text for text, count in found.items() if count)
