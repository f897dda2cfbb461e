"""``dedup-storage forget-user``: users out of every table and every kept version."""

from __future__ import annotations

from typing import Annotated

import typer

from dedup_storage.cli.options import DatasetOption, RunIdOption
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import StorageError, UsageError
from dedup_storage.schema import check_name

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
    run_id: RunIdOption = None,
) -> None:
    """Erase users from every table and every kept version, and scan the files for them."""
    check_name(dataset, "dataset name")
    if (users is None) == (users_table is None):
        raise UsageError("no users to forget are named", expected="--users or --users-table")
    with job.dataset(dataset, users_table) as target:
        from dedup_storage.sources.named import read_frame, read_ids

        named = read_ids(users, job.store) if users is not None else read_frame(target.spark, str(users_table))
        with job.step(f"Forgetting users of {dataset}", target.spark):
            summary = target.forget_users(named, run_id, dry_run=dry_run)
    job.done(f"{'Would forget' if dry_run else 'Forgot'} users of {dataset}", summary)
    if summary.clean is False:
        raise StorageError(
            "the scan still found rows of these users", fix="Run maintain to remove orphans, then this job again."
        )
