"""``dedup-storage features``: feature groups added, kept up to date, listed, renamed, bundled, promoted, dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dedup_storage.cli.commands import Commands
from dedup_storage.cli.options import (
    DatasetOption,
    DryRunOption,
    FormerSqlOption,
    GateOption,
    RunIdOption,
    SqlOption,
    VersionOption,
    pairs,
    refuse_idle,
)
from dedup_storage.cli.outdated import stale_groups
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import UsageError
from dedup_storage.schema import Grain

if TYPE_CHECKING:
    from dedup_storage.lake.cells import Cell
    from dedup_storage.lake.groups import FeatureGroup

__all__ = ["add", "app", "bundle", "drop", "promote", "refresh"]

app = Commands(no_args_is_help=True, help="Add columns to a dataset as feature groups, and keep them up to date.")

Name = Annotated[str, typer.Argument(help="Name of the feature group.")]
Function = Annotated[
    str | None, typer.Option(help="module:name of a function of the grain's frame, or of (requests, impressions).")
]


@app.command("add")
@job
def add(
    job: Job,
    name: Name,
    dataset: DatasetOption,
    sql: SqlOption = None,
    former_sql: FormerSqlOption = None,
    function: Function = None,
    join: Annotated[
        str | None, typer.Option(help="Look columns up in namespace.table, which has one row per key.")
    ] = None,
    on: Annotated[
        list[str] | None, typer.Option(help="With --join: COLUMN=KEY, the table's key for a column; repeatable.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="With --join: COLUMN=SOURCE, a new column and the table's; repeatable.")
    ] = None,
    grain: Annotated[Grain, typer.Option(help="What one row of the group stands for.")] = Grain.REQUEST,
    lookback: Annotated[
        str, typer.Option(help="How many days before its own date a row looks back on, or 'all'.")
    ] = "0",
    uses: Annotated[list[str] | None, typer.Option(help="Another group whose columns are read; repeatable.")] = None,
    across_users: Annotated[bool, typer.Option(help="A row looks at rows of other users too.")] = False,
    missing: Annotated[str, typer.Option(help="What to do with keys that get no row: refuse or null.")] = "refuse",
    not_null: Annotated[list[str] | None, typer.Option(help="Column that must have no null; repeatable.")] = None,
    sequence: Annotated[
        str | None, typer.Option(help="With --grain event: the sequence group, where there are several.")
    ] = None,
    dry_run: DryRunOption = False,
    gate: GateOption = True,
    run_id: RunIdOption = None,
) -> None:
    """Compute new columns and publish them as a feature group; nothing is rewritten."""
    source = _source([*(sql or ()), *(former_sql or ())], function, join, on, column)
    days = _days(lookback)
    text = f"Looking at {name}" if dry_run else f"Adding {name} to {dataset}"
    with job.dataset(dataset, gate=gate) as opened, job.step(text, opened.spark):
        summary = opened.features.add(
            name,
            source(),
            grain=grain,
            lookback=days,
            uses=uses or (),
            across_users=across_users,
            missing=missing,
            not_null=not_null or (),
            sequence=sequence,
            run_id=run_id,
            gate=gate,
            dry_run=dry_run,
        )
    job.shown(f"{'Would add' if dry_run else 'Added'} {name} to {dataset}", summary.shown(), summary)


@app.command("refresh")
@job
def refresh(
    job: Job,
    name: Name,
    dataset: DatasetOption,
    function: Function = None,
    full: Annotated[bool, typer.Option("--full", help="Compute every row again, whatever changed.")] = False,
    dry_run: DryRunOption = False,
    gate: GateOption = True,
    run_id: RunIdOption = None,
) -> None:
    """Compute what is new or changed since a feature group was computed; nothing when it is up to date."""
    with job.dataset(dataset, gate=gate) as opened:
        from dedup_storage.dataset.features.recipe import import_function

        with job.step(f"{'Looking at' if dry_run else 'Refreshing'} {name} of {dataset}", opened.spark):
            source = import_function(function) if function else None
            summary = opened.features.refresh(name, source, run_id=run_id, full=full, gate=gate, dry_run=dry_run)
    done = f"{'Would refresh' if dry_run else 'Refreshed'} {name}"
    title = f"{name} of {dataset} was up to date" if summary.up_to_date else done
    job.shown(title, summary.shown(), summary)


@app.command("promote")
@job
def promote(
    job: Job, name: Name, dataset: DatasetOption, dry_run: DryRunOption = False, run_id: RunIdOption = None
) -> None:
    """Fold a feature group into its grain's table, so that reading joins nothing."""
    text = f"{'Looking at' if dry_run else 'Promoting'} {name} of {dataset}"
    with job.dataset(dataset) as opened, job.step(text, opened.spark):
        summary = opened.features.promote(name, run_id=run_id, dry_run=dry_run)
    job.shown(f"{'Would promote' if dry_run else 'Promoted'} {name} of {dataset}", summary.shown(), summary)


@app.command("bundle")
@job
def bundle(
    job: Job,
    name: Annotated[str, typer.Argument(help="Name of the bundle, for its table.")],
    dataset: DatasetOption,
    groups: Annotated[list[str], typer.Option(help="Feature groups of one grain, comma-separated; repeatable.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say rows, bytes, joins and whether it pays; change nothing.")
    ] = False,
    run_id: RunIdOption = None,
) -> None:
    """Bring feature groups into one table of their own, so that reading them joins once; the log stays as it is."""
    chosen = [group.strip() for text in groups for group in text.split(",") if group.strip()]
    if dry_run:
        from dedup_storage.lake.bundles import plan_bundle

        plan = plan_bundle(job.metadata(dataset), None, name, chosen)
        job.shown(f"Plan for {name} of {dataset}", plan.model_dump(mode="json"), plan)
        return
    with job.dataset(dataset) as opened, job.step(f"Bundling {name} of {dataset}", opened.spark):
        summary = opened.features.bundle(name, chosen, run_id=run_id)
    job.shown(f"Bundled {', '.join(summary.groups) or name} of {dataset}", summary.shown(), summary)


@app.command("drop")
@job
def drop(
    job: Job, name: Name, dataset: DatasetOption, dry_run: DryRunOption = False, run_id: RunIdOption = None
) -> None:
    """Publish a version without a feature group; older versions keep it."""
    with job.dataset(dataset) as opened:
        summary = opened.features.drop(name, run_id=run_id, dry_run=dry_run)
    job.shown(f"{'Would drop' if dry_run else 'Dropped'} {name} from {dataset}", summary.shown(), summary)


@app.command("rename")
@job
def rename(
    job: Job,
    name: Name,
    new_name: Annotated[str, typer.Argument(help="Its name from now on.")],
    dataset: DatasetOption,
    dry_run: DryRunOption = False,
    run_id: RunIdOption = None,
) -> None:
    """Publish a version in which a feature group has another name."""
    with job.dataset(dataset) as opened:
        summary = opened.features.rename(name, new_name, run_id=run_id, dry_run=dry_run)
    job.shown(f"{'Would rename' if dry_run else 'Renamed'} {name} to {new_name}", summary.shown(), summary)


@app.command("list")
@job
def list_features(job: Job, dataset: DatasetOption, version: VersionOption = None) -> None:
    """List the feature groups of a version."""
    groups, stale = stale_groups(job, dataset, version)
    columns = ("group", "grain", "columns", "computed by", "from version", "out of date", "promoted into", "bundled in")
    rows = [_row(group, stale[name]) for name, group in groups.items()]
    job.listed(f"Feature groups of {dataset}", columns, rows, groups.values())


@app.command("describe")
@job
def describe(job: Job, name: Name, dataset: DatasetOption, version: VersionOption = None) -> None:
    """Show a feature group's definition and lineage, and what of it is out of date."""
    from dedup_storage.lake.cells import shown_cells, shown_ranges
    from dedup_storage.lake.groups import find_group

    groups, stale = stale_groups(job, dataset, version, name)
    group = find_group(groups, name, dataset)
    values: dict[str, Any] = group.model_dump(mode="json", exclude_defaults=True)
    shown = values | {
        "source": _recipe(group),
        "coverage": [
            {"version": part.version, "dates": shown_ranges([(part.start, part.end)])} for part in group.coverage
        ],
        "out_of_date": shown_cells(stale[name]) or "no",
    }
    cells = sorted((cell.to_list() for cell in stale[name]), key=str)
    job.shown(f"Feature group {name} of {dataset}", shown, {**values, "out_of_date": cells})


def _recipe(group: FeatureGroup) -> str:
    source = group.source
    if source.table:
        keys = " and ".join(f"{column}={key}" for column, key in source.on.items())
        return f"{', '.join(f'{c}: {text}' for c, text in source.columns.items())} of {source.table} on {keys}"
    recipe = ", ".join(f"{c}: {text}" for c, text in source.expressions.items()) or source.function
    return recipe or source.kind.value


def _row(group: FeatureGroup, stale: set[Cell]) -> tuple[object, ...]:
    return (
        group.name,
        group.grain.value if group.sequence is None else f"{group.grain.value} ({group.sequence})",
        group.names,
        _recipe(group),
        ", ".join(str(part.version) for part in group.coverage),
        bool(stale),
        group.promoted,
        group.bundled,
    )


def _source(
    sql: list[str], function: str | None, join: str | None, on: list[str] | None, column: list[str] | None
) -> Any:
    """What makes the source, once Spark runs; wrong options are refused before that."""
    chosen = [option for option, value in (("--sql", sql), ("--function", function), ("--join", join)) if value]
    if len(chosen) != 1:
        raise UsageError(
            "a feature group is computed by one thing",
            expected="--sql, --function or --join",
            got=" and ".join(chosen) or "none of them",
        )
    if not join:
        refuse_idle({"--on": bool(on), "--column": bool(column)}, "without --join")
    expressions = pairs("--sql", sql)
    keys, columns = pairs("--on", on or ()), pairs("--column", column or ())

    def make() -> Any:
        from dedup_storage.dataset.features.recipe import Lookup, import_function

        if function:
            return import_function(function)
        return Lookup(join, keys, columns) if join else expressions

    return make


def _days(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise UsageError("the look-back cannot be read", expected="a number of days, or all", got=repr(text[:40]))
    return int(text)
