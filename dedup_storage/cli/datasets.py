"""``dedup-storage datasets``: list, describe, drop, rename; none of them needs Spark."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dedup_storage.cli.commands import Commands
from dedup_storage.cli.options import DryRunOption, YesOption
from dedup_storage.cli.output import stdout
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import DedupStorageError, UsageError
from dedup_storage.words import human_bytes

if TYPE_CHECKING:
    from dedup_storage.lake.admin import DatasetDescription

__all__ = ["app"]

app = Commands(no_args_is_help=True, help="List, describe, drop or rename datasets.")

Name = Annotated[str, typer.Argument(help="Name of the dataset.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Also when runs are at work on it or were stopped, or versions are pinned."),
]


@app.command("list")
@job
def list_datasets(job: Job) -> None:
    """List the datasets of the warehouse, with the settings that led there."""
    lake = job.lake
    described: list[DatasetDescription] = []
    rows: list[tuple[object, ...]] = []
    for name in lake.datasets():
        try:
            one = lake.describe(name)
        except DedupStorageError as error:
            rows.append((name, f"cannot be read: {error.what}", *[""] * 6))
            continue
        described.append(one)
        rows.append(_row(one))
    columns = ("dataset", "layout", "version", "published (UTC)", "rows", "stored", "feature groups", "samples")
    job.listed(f"Datasets in {job.settings.warehouse_uri} ({job.settings.format})", columns, rows, described)
    if not rows and str(job.json) != "-":
        stdout.print(f"Settings: {job.settings.origin}. Name others with --config.", markup=False)


def _row(one: DatasetDescription) -> tuple[object, ...]:
    tables = [table for table in ("requests", "impressions", "logs") if table in one.rows]
    return (
        one.name,
        one.layout + (", adopted" if one.adopted else ""),
        one.version or None,
        _moment(one.published_ms),
        ", ".join(f"{table} {one.rows[table]:,}" for table in tables) or None,
        human_bytes(one.bytes),
        one.features,
        one.samples,
    )


def _moment(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


@app.command("describe")
@job
def describe(job: Job, name: Name) -> None:
    """Show a dataset's layout, rows, bytes, versions, feature groups and samples."""
    found = job.lake.describe(name)
    values = found.model_dump(mode="json", exclude={"name", "published_ms"})
    job.shown(f"Dataset {name}", {**values, "published (UTC)": _moment(found.published_ms)}, found)


@app.command("drop")
@job
def drop(job: Job, name: Name, force: Force = False, yes: YesOption = False, dry_run: DryRunOption = False) -> None:
    """Remove a dataset with every version and every file in its tables' folders; an adopted log's files stay."""
    _confirm(f"Remove the dataset {name} and its files from {job.settings.warehouse_uri}?", yes or dry_run)
    summary = job.lake.drop(name, force=force, dry_run=dry_run)
    job.done(f"{'Would drop' if dry_run else 'Dropped'} {name}", summary)
    if summary.kept and str(job.json) != "-":
        stdout.print("The log that was adopted stays where it lies; its table is no longer in the catalog.")


@app.command("rename")
@job
def rename(
    job: Job,
    name: Name,
    new_name: Annotated[str, typer.Argument(help="Its name from now on.")],
    force: Annotated[bool, typer.Option("--force", help="Also when runs are at work on it, or were stopped.")] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Give a dataset another name; what names it elsewhere (lookups, readers' states) keeps the old one."""
    summary = job.lake.rename(name, new_name, force=force, dry_run=dry_run)
    job.done(f"{'Would rename' if dry_run else 'Renamed'} {name} to {new_name}", summary)


def _confirm(question: str, yes: bool) -> None:
    """Ask a person; without one, --yes must have been given.

    Raises:
        UsageError: nobody can be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to confirm the drop", expected="--yes")
    typer.confirm(question, abort=True)
