"""``dedup-storage validate``: does a log fit its schema, as far as footers and headers tell?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from dedup_storage.cli.arrow_alone import arrow_alone
from dedup_storage.cli.options import LogFormat
from dedup_storage.cli.output import show_table, stdout
from dedup_storage.cli.runtime import Job, job
from dedup_storage.errors import InputError
from dedup_storage.schema import LogSchema

__all__ = ["validate"]


@job
def validate(
    job: Job,
    source: Annotated[str, typer.Argument(help="The raw log: a file, a folder, or a table's name.")],
    schema: Annotated[Path, typer.Option("--schema", help="Log schema (YAML).")],
    impressions: Annotated[
        str | None, typer.Option(help="The impressions, when SOURCE holds the requests alone (two frames).")
    ] = None,
    format: Annotated[LogFormat | None, typer.Option(help="Format; told by the file's name if left out.")] = None,
) -> None:
    """Check a raw log against its schema before anything is started: its kind, its files, columns and types."""
    from dedup_storage.sources.check import check_named, check_source
    from dedup_storage.sources.forms.first import first_rows
    from dedup_storage.sources.forms.kinds import standard_kinds
    from dedup_storage.sources.recognise.order import order_notes
    from dedup_storage.sources.source import open_source
    from dedup_storage.sources.wanted import wanted_columns

    arrow_alone()
    described = LogSchema.from_yaml(schema)
    kind, wanted = format.value if format else None, wanted_columns(described)
    needed = wanted.needed if impressions is None else described.request_key
    log = open_source(source, format=kind, wanted=replace(wanted, needed=needed), settings=job.settings)
    other = None
    if impressions is not None:
        other = open_source(impressions, format=kind, wanted=wanted, settings=job.settings)
    check_source(log, described, impressions=other)
    check_named(log, described, impressions=other)
    lying = {f.name: f.type for s in (log, other) if s is not None for f in s.schema}
    columns = [(name, str(kind)) for name, kind in standard_kinds(lying, described).items()]
    shown = first_rows(log, described) if other is None else None
    if shown is None and other is None and log.files:
        raise InputError(f"{source} holds no rows", fix="Check the path.")
    notes = [note for s in (log, other) if s is not None for note in s.notes] + order_notes(log, described)
    if str(job.json) != "-":
        show_table(f"{source} fits its schema", ("column", "type"), columns)
        if described.forms and shown is not None:
            show_table("First rows as they are understood", shown.columns, shown.rows)
        for note in notes:
            stdout.print(note, markup=False)
    job.write_json(
        {"source": source, "kind": log.address.kind.value, "files": len(log.address.files or log.files),
         "columns": dict(columns), "notes": notes}
    )  # fmt: skip
