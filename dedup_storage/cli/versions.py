"""``dedup-storage versions``: list, pin, unpin, roll back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dedup_storage.cli.options import DatasetOption, RunIdOption
from dedup_storage.cli.runtime import Job, job

if TYPE_CHECKING:
    from dedup_storage.lake.history import VersionInfo

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List, pin, unpin or roll back the versions of a dataset.")

Label = Annotated[str, typer.Option(help="Name of the pin: letters, digits, underscores.")]


@app.command("list")
@job
def list_versions(job: Job, dataset: DatasetOption) -> None:
    """List the published versions, newest first."""
    metadata = job.metadata(dataset)
    infos = [metadata.info(version) for version in sorted(metadata.version_numbers, reverse=True)]
    columns = ("version", "published (UTC)", "job", "run id", "from", "rows", "pins")
    job.listed(f"Versions of {dataset}", columns, [_row(info) for info in infos], infos)


def _row(info: VersionInfo) -> tuple[object, ...]:
    published = datetime.fromtimestamp(info.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return (info.version, published, info.job, info.run_id, info.parent or None, info.rows, info.pins)


@app.command("pin")
@job
def pin(
    job: Job,
    version: Annotated[int, typer.Argument(min=1, help="Version to keep.")],
    dataset: DatasetOption,
    label: Label,
) -> None:
    """Keep a version through expiry, and show what names it for good."""
    from dedup_storage.lake.catalogs import open_admin

    admin = open_admin(job.settings)
    if admin.commits:
        pinned = admin.pin(dataset, version, label)
    else:
        with job.dataset(dataset) as opened:
            pinned = opened.pin(version, label)
    # Ids are names here, not amounts.
    snapshots = {table: str(snapshot_id) for table, snapshot_id in pinned["snapshots"].items()}
    job.shown(f"Pinned version {version} of {dataset}", {**pinned, "snapshots": snapshots}, pinned)


@app.command("unpin")
@job
def unpin(job: Job, label: Annotated[str, typer.Argument(help="Name of the pin.")], dataset: DatasetOption) -> None:
    """Let expiry have a pinned version again."""
    from dedup_storage.lake.catalogs import open_admin

    admin = open_admin(job.settings)
    if admin.commits:
        admin.unpin(dataset, label)
    else:
        with job.dataset(dataset) as opened:
            opened.unpin(label)
    job.done(f"Unpinned {label}", {"dataset": dataset, "label": label})


@app.command("rollback")
@job
def rollback(
    job: Job,
    version: Annotated[int, typer.Argument(min=1, help="Version whose content comes back.")],
    dataset: DatasetOption,
    run_id: RunIdOption = None,
) -> None:
    """Publish an earlier version's content as the newest version."""
    with job.dataset(dataset) as opened, job.step(f"Rolling {dataset} back", opened.spark):
        summary = opened.rollback(version, run_id=run_id)
    job.done(f"Rolled {dataset} back to version {version}", summary)
