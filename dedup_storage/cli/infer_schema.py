"""``dedup-storage infer-schema``: what a log's columns could mean, shown for confirmation and written as a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dedup_storage.cli.options import LogFormat
from dedup_storage.cli.output import show_table, stdout
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import StorageError, UsageError
from dedup_storage.schema import Grain, LogSchema

if TYPE_CHECKING:
    from dedup_storage.sources.grains import GrainReport
    from dedup_storage.sources.recognise.proposal import Proposal

__all__ = ["infer_schema"]


_KEYS = "the key columns: user, request and item"
_NO_REQUEST = (
    " Any columns that are the same for all candidates of one request will do; one that is the same for all rows of a "
    "user makes one request of each user."
)


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
    header: Annotated[
        str | None, typer.Option(help="Names of the columns of CSV files that have no header: a,b,c.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept what was detected without asking.")] = False,
) -> None:
    """Propose the meaning of a log's columns from their names and the data, show it, and write a schema file."""
    from dedup_storage.sources.address import Kind, find_address
    from dedup_storage.sources.forms.arrow import standard_table
    from dedup_storage.sources.forms.first import shown_rows
    from dedup_storage.sources.recognise.head import read_head
    from dedup_storage.sources.recognise.proposal import NEEDED, Proposal
    from dedup_storage.sources.recognise.propose import propose
    from dedup_storage.sources.recognise.written import schema_text

    given = _given(
        schema, user=user, request=request, item=item, event_time=event_time, position=position, labels=label,
        header=None if header is None else [name.strip() for name in header.split(",")],
    )  # fmt: skip
    kind = format.value if format else None
    loud, asks = str(job.json) != "-", sys.stdin.isatty() and not yes
    job.require(source)
    found, head = Proposal(dict(given)), None
    # A table may be one that only Spark can read; where its roles are known, Spark alone looks at it.
    if find_address(source, kind, job.store).kind is not Kind.TABLE or any(role not in given for role in NEEDED):
        with job.step("Looking at the first rows"):
            head = read_head(
                source, format=kind, header=tuple(given.get("header", ())), texts=tuple(given.get("forms", ())),
                settings=job.settings,
            )  # fmt: skip
            found = propose(head, given)
    if loud and head is not None and not found.missing:
        stdout.print()
        shown = shown_rows(standard_table(head.table, LogSchema.from_dict(found.values)))
        show_table("First rows as they are understood", shown.columns, shown.rows)
    if asks:
        _ask(found, [] if head is None else head.table.column_names)
    start = _start(found)
    if head is not None:
        head.check(start, source)
    with job.spark() as spark:
        from dedup_storage.sources.grains import detect_grains
        from dedup_storage.sources.infer import propose_schema, with_evidence
        from dedup_storage.sources.raw import RawLog

        with job.step("Detecting grains", spark):
            log = RawLog.read(spark, source, format=kind, schema=start)
            grains = with_evidence(log, detect_grains(log))
            proposed = propose_schema(log, grains, found.times)
    if loud:
        _show(grains, proposed)
        for note in (*log.notes, *(f"Not sure: {text}." for text in found.unsure.values())):
            stdout.print(note, markup=False)
    text = schema_text(proposed, found.reasons, found.unsure)
    if output is None:
        stdout.print(text, markup=False, end="")
    elif not asks or typer.confirm(f"Write {output}?", default=True):
        _save(output, text)
        stdout.print(f"Wrote {output}", markup=False)
    job.write_json(
        {
            "columns": [
                {"column": c.column, "grain": c.grain.value, "declared": c.declared, "requests": c.requests}
                | {"varying_requests": c.varying_requests}
                for c in grains.columns
            ],
            "schema": proposed.to_dict(),
            "reasons": found.reasons,
            "unsure": found.unsure,
        }
    )


def _given(path: Path | None, **roles: Any) -> dict[str, Any]:
    """Keys of the schema file to start from, replaced by those given as options."""
    base: dict[str, Any] = {}
    if path is not None:
        base = LogSchema.values_of(path)
    return base | {name: value for name, value in roles.items() if value not in (None, [])}


def _ask(found: Proposal, columns: list[str]) -> None:
    """Ask about what is not sure; the answers are columns, or nothing to keep what was found."""
    stdout.print(f"Columns: {', '.join(columns)}", markup=False)
    open_roles = [role for role in found.unsure if role in ("user", "request", "item", "labels")]
    for role in dict.fromkeys((*found.missing, *open_roles)):
        if role in found.unsure:
            stdout.print(f"{found.unsure[role]}.", markup=False)
        now = found.values.get(role)
        shown = ",".join(now) if isinstance(now, list) else now or ""
        told = typer.prompt(f"Column of the {role}", default=shown, show_default=bool(shown))
        if told:
            several = role in ("request", "labels")
            found.values[role] = [part.strip() for part in told.split(",")] if several else told.strip()
            found.unsure.pop(role, None)


def _start(found: Proposal) -> LogSchema:
    if found.missing:
        role = found.missing[0]
        raise UsageError(
            f"the {role} column is not named, and no column looks like one",
            expected=f"a {role} that is an integer or a text" if role in found.unfit else _KEYS,
            got=found.unfit.get(role),
            fix=f"Give --{role} COLUMN, or --schema FILE." + (_of_requests(found) if role == "request" else ""),
        )
    return LogSchema.from_dict(found.values)


def _of_requests(found: Proposal) -> str:
    """What else may be done where no column tells requests."""
    forms = found.values.get("forms", {})
    objects = [c for c, taken in found.values.get("candidates", {}).items() if taken == "*" and c not in forms]
    for column in objects:
        return _NO_REQUEST + (
            f" Where the objects of {column} are events by themselves, and no candidates of one request, make a row of "
            f"each first, of JSON lines with: jq -c '.{column}[] + del(.{column})' LOG > rows.jsonl"
        )
    return _NO_REQUEST


def _show(found: GrainReport, proposed: LogSchema) -> None:
    sequences = {s.column: s for s in proposed.sequences}
    rows = []
    for column in found.columns:
        sequence = sequences.get(column.column)
        notes = [] if sequence is None else [f"sequence, group {sequence.group}" if sequence.group else "sequence"]
        if sequence is not None and sequence.times:
            notes.append(f"times in {sequence.unit}" if sequence.unit else "times")
        because = f"varies in {column.varying_requests:,} of {column.requests:,} requests"
        if not column.requests:
            because = "hardly a request has two rows"
            if proposed.candidates:
                of_request = column.grain is Grain.REQUEST
                because = "a row of the log is a request" if of_request else "part of the candidates"
        rows.append((column.column, column.grain.value, "declared" if column.declared else because, ", ".join(notes)))
    show_table("Grain of each column", ("column", "grain", "because", "taken as"), rows)


def _save(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the schema cannot be written to {path}: {error.strerror}") from None
