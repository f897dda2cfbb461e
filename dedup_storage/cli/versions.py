"""``dedup-storage versions``: list, pin, unpin, roll back, show what is under way, give up what is stuck."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dedup_storage.cli.commands import Commands
from dedup_storage.cli.options import DatasetOption, DryRunOption, RunIdOption
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import UsageError

if TYPE_CHECKING:
    from dedup_storage.lake.history import VersionInfo
    from dedup_storage.lake.status import PublicationStatus

__all__ = ["app"]

app = Commands(
    no_args_is_help=True, help="List, pin, unpin or roll back the versions of a dataset; see and end what is under way."
)

Label = Annotated[str, typer.Option(help="Name of the pin: letters, digits, underscores.")]


@app.command("list")
@job
def list_versions(job: Job, dataset: DatasetOption) -> None:
    """List the published versions, newest first."""
    metadata = job.metadata(dataset)
    infos = [metadata.info(version) for version in sorted(metadata.version_numbers, reverse=True)]
    columns: tuple[str, ...] = ("version", "published (UTC)", "job", "run id", "from", "rows", "pins")
    rows: list[tuple[object, ...]] = [_row(info) for info in infos]
    changes = [_columns(info) for info in infos]
    if any(changes):
        columns, rows = (*columns, "columns"), [(*row, text) for row, text in zip(rows, changes, strict=True)]
    job.listed(f"Versions of {dataset}", columns, rows, infos)


def _columns(info: VersionInfo) -> str | None:
    """What a version did to the log's columns."""
    told = {"added": info.summary.get("added-columns"), "null": info.summary.get("filled-columns")}
    return "; ".join(f"{what} {names.replace(',', ', ')}" for what, names in told.items() if names) or None


def _row(info: VersionInfo) -> tuple[object, ...]:
    return (info.version, _published(info), info.job, info.run_id, info.parent or None, info.rows, info.pins)


def _published(info: VersionInfo) -> str:
    return datetime.fromtimestamp(info.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


@app.command("pin")
@job
def pin(
    job: Job,
    version: Annotated[int, typer.Argument(min=1, help="Version to keep.")],
    dataset: DatasetOption,
    label: Label,
    dry_run: DryRunOption = False,
) -> None:
    """Keep a version through expiry, and show what names it for good."""
    from dedup_storage.lake.catalogs import open_admin

    admin = open_admin(job.settings)
    if dry_run:
        pinned = admin.pin(dataset, version, label, dry_run=True)
    elif admin.commits:
        pinned = admin.pin(dataset, version, label)
    else:
        with job.dataset(dataset) as opened:
            pinned = opened.pin(version, label)
    # Ids are names here, not amounts.
    snapshots = {table: str(snapshot_id) for table, snapshot_id in pinned["snapshots"].items()}
    title = f"{'Would pin' if dry_run else 'Pinned'} version {version} of {dataset}"
    job.shown(title, {**pinned, "snapshots": snapshots}, pinned)


@app.command("unpin")
@job
def unpin(
    job: Job,
    label: Annotated[str, typer.Argument(help="Name of the pin.")],
    dataset: DatasetOption,
    dry_run: DryRunOption = False,
) -> None:
    """Let expiry have a pinned version again."""
    from dedup_storage.lake.catalogs import open_admin

    admin = open_admin(job.settings)
    if dry_run:
        versions = admin.unpin(dataset, label, dry_run=True)
        job.done(f"Would unpin {label}", {"dataset": dataset, "label": label, "versions": versions})
        return
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
    dry_run: DryRunOption = False,
    run_id: RunIdOption = None,
) -> None:
    """Publish an earlier version's content as the newest version."""
    if dry_run:
        metadata = job.metadata(dataset)
        from dedup_storage.lake.publishing import require_same, require_same_buckets
        from dedup_storage.lake.requests import Request

        restored = metadata.info(metadata.resolve(version))
        # A version that is decided is completed first.
        coming = metadata.following if metadata.pending is None else metadata.pending + 1
        done = None if run_id is None else require_same(metadata, Request.of("rollback", version=version).text, run_id)
        if done is None:
            require_same_buckets(metadata, version)
        columns = list(metadata.spec_of(version).source_columns)
        found = {"dataset": dataset, "version": done or coming, "restores": version, "columns": columns}
        would = f"Would roll {dataset} back to" if done is None else f"Rolled {dataset} back before, by this run, to"
        job.done(f"{would} version {version}", {**found, "rows": dict(restored.rows)})
        return
    done = None if run_id is None else job.metadata(dataset).version_of_run(run_id)
    with job.dataset(dataset) as opened, job.step(f"Rolling {dataset} back", opened.spark):
        summary = opened.rollback(version, run_id=run_id)
    told = {"dataset": dataset, "version": summary.version, "restores": version, "run_id": summary.run_id}
    shown = {**told, "published (UTC)": _published(summary), "rows": dict(summary.rows)}
    title = f"Rolled {dataset} back to version {version}"
    job.shown(title if done is None else f"{title} before, as version {done}: nothing was done", shown, summary)


@app.command("status")
@job
def status(job: Job, dataset: DatasetOption) -> None:
    """Show what is under way: a decided version, runs at work or stopped, versions that were given up."""
    from dedup_storage.lake.catalogs import open_admin

    found = open_admin(job.settings).status(dataset)
    columns = ("what", "run id", "job", "tables", "rows", "since (UTC)", "state")
    rows, title = _under_way(found), f"Under way on {dataset}, version {found.version}"
    job.listed(f"{title}. {found.advice}" if rows else title, columns, rows, [found])


def _under_way(status: PublicationStatus) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    pending = status.pending
    if pending is not None:
        for member in pending.members:
            what, since = f"version {pending.version}", _when(pending.since_ms)
            rows.append((what, pending.run_id, pending.job, member.table, member.rows, since, member.state))
    for run in status.runs:
        since = _when(run.since_ms)
        rows.append((f"staged {run.holds}", run.run_id, run.job, ", ".join(run.tables), run.rows, since, "not decided"))
    for given_up in status.abandoned:
        state = "given up" if given_up.whole else "half given up: the next writer goes on"
        rows.append((f"version {given_up.version}", given_up.run_id, given_up.job, None, None, None, state))
    return rows


def _when(milliseconds: int) -> str | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") if milliseconds else None


@app.command("abandon")
@job
def abandon(
    job: Job,
    dataset: DatasetOption,
    version: Annotated[int | None, typer.Argument(min=1, help="Version that is decided and not complete.")] = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", help="A stopped run whose staged rows and finished parts go.")
    ] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Give up a decided version that cannot be completed, or what a stopped run left. Readers are not affected."""
    if (version is None) == (run_id is None):
        raise UsageError("name a version or --run-id, one of them", fix="See them with: dedup-storage versions status.")
    staged: Iterable[str] = ()
    if version is not None:
        from dedup_storage.lake.publishing import require_pending

        # Told before Spark starts.
        metadata = job.metadata(dataset)
        require_pending(metadata, version)
        members = metadata.members(version)
        staged = members.staged if members is not None else ()
    if dry_run:
        from dedup_storage.lake.branch import branch_name
        from dedup_storage.lake.catalogs import open_admin

        found = open_admin(job.settings).status(dataset)
        runs = [run for run in found.runs if run_id in (run.run_id, branch_name(run.run_id))]
        pending = found.pending if found.pending is not None and found.pending.version == version else None
        tables = {t for run in runs for t in run.tables} | {m.table for m in (pending.members if pending else ())}
        tables |= set(staged)
        if run_id is not None and not runs:
            raise _nothing_left(dataset, run_id)
        named = {"version": version} if run_id is None else {"run_id": run_id}
        job.done(f"Would give up on {dataset}", {"dataset": dataset, **named, "tables": sorted(tables)})
        return
    with job.dataset(dataset) as opened, job.step(f"Giving up on {dataset}", opened.spark):
        if run_id is not None:
            given_up = opened.publication.abandon_run(run_id)
            if not given_up:
                raise _nothing_left(dataset, run_id)
            job.done(f"Gave up the run {run_id}", {"dataset": dataset, "run_id": run_id, "tables": list(given_up)})
        elif version is not None:
            job.done(f"Gave up version {version} of {dataset}", opened.publication.abandon(version))


def _nothing_left(dataset: str, run_id: str) -> UsageError:
    return UsageError(
        f"the run {run_id} has nothing on {dataset} that could be given up: no staged rows and no finished parts",
        fix="Nothing was changed. See what is under way with: dedup-storage versions status.",
    )
