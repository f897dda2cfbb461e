"""``dedup-storage infer-schema``: detect the grain of each column, show it for confirmation, write the schema file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dedup_storage.cli.options import LogFormat
from dedup_storage.cli.output import show_table, stdout
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import StorageError, UsageError
from dedup_storage.schema import LogSchema

if TYPE_CHECKING:
    from dedup_storage.sources.grains import GrainReport

__all__ = ["infer_schema"]

_HEADER = "# Meaning of the log's columns. Grains and sequences were detected from the data: check them once.\n"


@job
def infer_schema(
    job: Job,
    source: Annotated[str, typer.Argument(help="The raw log: a file, a directory, or a table's name.")],
    schema: Annotated[
        Path | None, typer.Option("--schema", help="Log schema (YAML) to start from; the options beside it win.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="User key column.")] = None,
    request: Annotated[list[str] | None, typer.Option(help="Request key column; repeatable.")] = None,
    item: Annotated[str | None, typer.Option(help="The candidate's item column.")] = None,
    event_time: Annotated[str | None, typer.Option(help="The request's timestamp column.")] = None,
    position: Annotated[str | None, typer.Option(help="The candidate's ordinal inside its request.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Label column; repeatable.")] = None,
    format: Annotated[LogFormat | None, typer.Option(help="Format; told by the file's name if left out.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Schema file to write; else it is printed.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept what was detected without asking.")] = False,
) -> None:
    """Detect the grain of every column, show it for confirmation, and write a schema file."""
    start = _start(
        schema, user=user, request=request, item=item, event_time=event_time, position=position, labels=label
    )
    with job.spark() as spark:
        from dedup_storage.sources.grains import detect_grains
        from dedup_storage.sources.infer import propose_schema
        from dedup_storage.sources.raw import RawLog

        with job.step("Detecting grains", spark):
            kind = format.value if format else None
            log = RawLog.read(spark, source, format=kind, schema=start, scratch=job.scratch(spark))
            found = detect_grains(log)
            proposed = propose_schema(log, found)
    if str(job.json) != "-":
        _show(found, proposed)
        for note in log.notes:
            stdout.print(note, markup=False)
    text = _HEADER + proposed.to_yaml()
    if output is None:
        stdout.print(text, markup=False, end="")
    elif yes or not sys.stdin.isatty() or typer.confirm(f"Write {output}?", default=True):
        _save(output, text)
        stdout.print(f"Wrote {output}", markup=False)
    job.write_json(
        {
            "columns": [
                {"column": c.column, "grain": c.grain.value, "declared": c.declared, "requests": c.requests}
                | {"varying_requests": c.varying_requests}
                for c in found.columns
            ],
            "schema": proposed.to_dict(),
        }
    )


def _start(path: Path | None, **roles: Any) -> LogSchema:
    """The schema to start from: the file's keys, replaced by those given as options."""
    given = {name: value for name, value in roles.items() if value not in (None, [])}
    base = LogSchema.from_yaml(path).to_dict() if path else {}
    missing = [name for name in ("user", "request", "item") if name not in base | given]
    if missing:
        raise UsageError(
            f"the {missing[0]} column is not named",
            expected="the key columns",
            fix=f"Give --{missing[0]} COLUMN, or --schema FILE.",
        )
    return LogSchema.from_dict(base | given)


def _show(found: GrainReport, proposed: LogSchema) -> None:
    sequences = {s.column: s for s in proposed.sequences}
    rows = []
    for column in found.columns:
        sequence = sequences.get(column.column)
        notes = [] if sequence is None else [f"sequence, group {sequence.group}" if sequence.group else "sequence"]
        if sequence is not None and sequence.times:
            notes.append(f"times in {sequence.unit}" if sequence.unit else "times")
        varies = f"varies in {column.varying_requests:,} of {column.requests:,} requests"
        rows.append((column.column, column.grain.value, "declared" if column.declared else varies, ", ".join(notes)))
    show_table("Grain of each column", ("column", "grain", "because", "taken as"), rows)


def _save(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the schema cannot be written to {path}: {error.strerror}") from None
