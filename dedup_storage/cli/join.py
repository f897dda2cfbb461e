"""``dedup-storage join``: tables of a dataset joined inside their buckets, or why they cannot be."""

from __future__ import annotations

from typing import Annotated

import typer

from dedup_storage.cli.options import DatasetOption, VersionOption, refuse_idle
from dedup_storage.cli.output import stdout
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import UsageError

__all__ = ["join"]


@job
def join(
    job: Job,
    dataset: DatasetOption,
    left: Annotated[
        str, typer.Option(help="Left table: of the dataset, or any by its full name (catalog.namespace.table).")
    ] = "impressions",
    right: Annotated[str, typer.Option(help="Right table.")] = "requests",
    on: Annotated[list[str] | None, typer.Option(help="Key column; all that both have by default; repeatable.")] = None,
    how: Annotated[str, typer.Option(help="inner, left, semi or anti.")] = "inner",
    column: Annotated[
        list[str] | None,
        typer.Option(help="Column wanted beside the keys, others are not read; all by default; repeatable."),
    ] = None,
    version: VersionOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Only say what would be shuffled, sorted or broadcast, and why.")
    ] = False,
    exchange: Annotated[
        str, typer.Option(help="Where rows would move: refuse, one-side (shuffle one side alone) or warn.")
    ] = "refuse",
    hash_side: Annotated[
        str | None, typer.Option(help="right, or left for inner joins: hash its buckets in memory, sort nothing.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="New directory for Parquet files.")] = None,
    table: Annotated[str | None, typer.Option(help="New table (catalog.namespace.table) for the rows.")] = None,
) -> None:
    """Join two tables of a dataset inside their buckets and write the rows; with --explain only explain."""
    if not explain and (output is None) == (table is None):
        raise UsageError("it is not clear what becomes of the rows", expected="--output, --table or --explain")
    if explain:
        given = {
            "--exchange": exchange != "refuse", "--hash-side": hash_side is not None, "--output": output is not None,
            "--table": table is not None,
        }  # fmt: skip
        refuse_idle(given, "beside --explain, which joins no rows", "--explain")
    with job.dataset(dataset) as opened:
        from dedup_storage.dataset.joins.tables import explain_tables, join_tables, write_join

        if explain:
            explanation = explain_tables(opened.handle, left, right, on=on, how=how, version=version, columns=column)
            if str(job.json) != "-":
                stdout.print(explanation)
            job.write_json(explanation)
            return
        with job.step(f"Joining {left} and {right}", opened.spark):
            rows = join_tables(
                opened.handle,
                left,
                right,
                on,
                how,
                version=version,
                columns=column,
                exchange=exchange,
                hash_side=hash_side,
            )
            summary = write_join(rows, left=left, right=right, how=how, output=output, table=table)
    job.done(f"Joined {left} and {right} of {dataset}", summary)
