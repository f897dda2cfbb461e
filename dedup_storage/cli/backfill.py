"""``dedup-storage backfill``: new values of columns for affected users, in the one table that holds the columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dedup_storage.cli.options import (
    DatasetOption,
    FormerSqlOption,
    GateOption,
    RunIdOption,
    SqlOption,
    pairs,
    refuse_idle,
)
from dedup_storage.cli.outdated import with_outdated
from dedup_storage.cli.progress import part_progress
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import UsageError
from dedup_storage.schema import check_name

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from dedup_storage.dataset.backfill import Affected, BackfillPlan, Change
    from dedup_storage.keys import IdList
    from dedup_storage.lake.history import DatasetMetadata

__all__ = ["backfill", "shown_plan"]

_SHOWN = 20


class _Strategy(StrEnum):
    AUTO = "auto"
    OVERWRITE = "overwrite"
    COPY_ON_WRITE = "copy-on-write"
    MERGE_ON_READ = "merge-on-read"


@job
def backfill(
    job: Job,
    dataset: DatasetOption,
    sql: SqlOption = None,
    former_sql: FormerSqlOption = None,
    rows: Annotated[str | None, typer.Option(help="Replacement rows: a table's name or a path.")] = None,
    function: Annotated[str | None, typer.Option(help="module:name of a function of the rows' frame.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Column that --rows or --function brings; repeatable.")
    ] = None,
    users: Annotated[str | None, typer.Option(help="File of affected users, one id a line.")] = None,
    users_table: Annotated[str | None, typer.Option(help="Affected users: a table's name or a path.")] = None,
    sample: Annotated[str | None, typer.Option(help="Affected users and event dates: a named sample's.")] = None,
    where: Annotated[str | None, typer.Option(help="SQL predicate of the affected rows.")] = None,
    changed_since: Annotated[
        int | None, typer.Option(min=1, help="Users whose rows changed after this version.")
    ] = None,
    first_date: Annotated[str | None, typer.Option("--from", help="First event date (2024-01-31).")] = None,
    last_date: Annotated[str | None, typer.Option("--to", help="Last event date, included.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All rows are affected.")] = False,
    strategy: Annotated[_Strategy, typer.Option(help="How segments are rewritten.")] = _Strategy.AUTO,
    part_segments: Annotated[int, typer.Option(min=1, help="Most segments of one commit.")] = 256,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    gate: GateOption = True,
    run_id: RunIdOption = None,
) -> None:
    """Recompute columns for affected users: plan, rewrite segment by segment, audit, publish."""
    check_name(dataset, "dataset name")
    expressions = pairs("--sql", [*(sql or ()), *(former_sql or ())])
    for column_name in expressions:
        check_name(column_name, "column name")
    conditions = (users, users_table, sample, where, changed_since, first_date, last_date, rows)
    if not everyone and all(value is None for value in conditions):
        raise UsageError(
            "the backfill does not name the rows to recompute",
            expected="--users, --users-table, --sample, --where, --changed-since, --from, --to or --rows",
            fix="Give --all to recompute every row.",
        )
    if sum(value is not None for value in (users, users_table, sample)) > 1:
        raise UsageError("users are named twice", expected="one of --users, --users-table and --sample")
    if expressions:
        refuse_idle({"--column": bool(column)}, "beside --sql, which names its columns")
    if everyone and any(value is not None for value in conditions):
        told = {"--users": users, "--users-table": users_table, "--sample": sample, "--where": where,
                "--changed-since": changed_since, "--from": first_date, "--to": last_date, "--rows": rows}  # fmt: skip
        named = " and ".join(option for option, value in told.items() if value is not None)
        refuse_idle({"--all": True}, f"beside {named}, which names the rows")
    names = (*expressions, *(column or ()))
    with job.dataset(dataset, rows, users_table, gate=gate, check=lambda meta: _refuse_unknown(meta, names)) as target:
        from dedup_storage.dataset.backfill import Strategy
        from dedup_storage.sources.named import read_ids

        listed = None if users is None else read_ids(users, job.store)
        spark = target.spark
        schema = target.schema
        keys = (*schema.request_key, schema.item)
        change = _change(spark, expressions, rows, function, tuple(column or ()), keys)
        who = replace(
            _affected(spark, listed, users_table, where, changed_since, first_date, last_date, schema.user),
            sample=sample,
        )
        chosen = None if strategy is _Strategy.AUTO else Strategy(strategy.value)
        if dry_run:
            with job.step("Planning", spark):
                plan = target.plan_backfill(change, who, chosen, run_id=run_id, gate=gate)
            job.shown(f"Plan for {dataset}", shown_plan(plan), plan)
            return
        with part_progress() as progress:
            summary = target.backfill(
                change,
                who,
                run_id=run_id,
                strategy=chosen,
                gate=gate,
                part_segments=part_segments,
                progress=progress,
            )
    job.done(f"Backfilled {dataset}", with_outdated(job, dataset, summary))


def _refuse_unknown(meta: DatasetMetadata, names: Sequence[str]) -> None:
    from dedup_storage.dataset.backfill.target import find_target

    version = meta.resolve(None)
    if names:
        find_target(meta, version, names)


def shown_plan(plan: BackfillPlan) -> dict[str, Any]:
    """A plan for people: of many segments the first, of a run that is done that it is."""
    if plan.published is not None:
        return {"dataset": plan.dataset, "published already as version": plan.published, "would be done": "nothing"}
    return plan.model_dump(mode="json") | {"segments": [s.model_dump() for s in plan.segments[:_SHOWN]]}


def _change(
    spark: SparkSession,
    expressions: dict[str, str],
    rows: str | None,
    function: str | None,
    columns: tuple[str, ...],
    keys: tuple[str, ...],
) -> Change:
    from dedup_storage.dataset.backfill import Change
    from dedup_storage.sources.named import named_function, read_frame

    return Change(
        expressions=expressions,
        rows=read_frame(spark, rows, keys=keys) if rows is not None else None,
        function=named_function(function) if function is not None else None,
        columns=columns,
    )


def _affected(
    spark: SparkSession,
    listed: IdList | None,
    users_table: str | None,
    where: str | None,
    changed_since: int | None,
    first_date: str | None,
    last_date: str | None,
    user: str,
) -> Affected:
    from dedup_storage.dataset.backfill import Affected
    from dedup_storage.sources.named import read_frame

    return Affected(
        users=listed if users_table is None else read_frame(spark, users_table, keys=(user,), needed=(user,)),
        where=where,
        changed_since=changed_since,
        first_date=first_date,
        last_date=last_date,
    )
