"""The first rows of a log as they are understood, to be shown. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from dedup_storage.schema import LogSchema
from dedup_storage.sources.forms.arrow import standard_table
from dedup_storage.sources.source import Source

__all__ = ["FirstRows", "first_rows", "shown_rows"]

_ROWS, _ELEMENTS, _CHARACTERS = 3, 3, 40


@dataclass(frozen=True)
class FirstRows:
    """A table to be shown: a line for each column, the rows beside each other."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def first_rows(source: Source, schema: LogSchema) -> FirstRows | None:
    """The first rows of a source, in standard columns; nothing of a table that only Spark reads, or of an empty log.

    Raises:
        InputError, SchemaError: see ``standard_table``; some ten thousand rows are looked at.
    """
    table = next((table for table in source.tables() if table.num_rows), None)
    return None if table is None else shown_rows(standard_table(table, schema))


def shown_rows(table: pa.Table) -> FirstRows:
    """The first rows of a table."""
    part = table.slice(0, _ROWS)
    rows = [(name, *(_told(value) for value in part[name].to_pylist())) for name in part.column_names]
    return FirstRows(("column", *(f"row {number}" for number in range(1, part.num_rows + 1))), rows)


def _told(value: object) -> str:
    if isinstance(value, list):
        more = f", … ({len(value)})" if len(value) > _ELEMENTS else ""
        return f"[{', '.join(_told(v) for v in value[:_ELEMENTS])}{more}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_told(v)}" for k, v in value.items()) + "}"
    text = "-" if value is None else str(value)
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"
