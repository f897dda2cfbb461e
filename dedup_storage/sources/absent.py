"""Columns that a schema names and a log may lack, where that is said. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dedup_storage.errors import SchemaError
from dedup_storage.forms import first_read, made_columns
from dedup_storage.schema import Grain, LogSchema

__all__ = ["ALL", "ColumnChoice", "among", "chosen_names", "fixed_columns", "never_null", "without_absent"]

# Columns by name, ``all`` of those it is about, or none.
ColumnChoice = str | Sequence[str] | None
ALL = "all"


def chosen_names(choice: ColumnChoice) -> tuple[str, ...]:
    """The names of a choice, also given as one text with commas; ``("all",)`` for all."""
    texts = choice.split(",") if isinstance(choice, str) else [*(choice or ())]
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def among(choice: ColumnChoice, columns: Iterable[str]) -> list[str]:
    """Those of the columns that are chosen."""
    names = chosen_names(choice)
    return [c for c in columns if c in names or names == (ALL,)]


def fixed_columns(schema: LogSchema) -> tuple[str, ...]:
    """Columns that every log has: keys, the item, the event time, the position where the log has one."""
    return tuple(c for c in (*schema.request_key, schema.item, schema.event_time, schema.position) if c)


def never_null(column: str) -> SchemaError:
    """The error for a column that cannot be filled with nulls."""
    return SchemaError(
        f"the log lacks the column {column}, which cannot be filled with nulls",
        expected="keys, the item, the event time and the position in every log",
        fix=f"Add {column} to the log, or correct its name in the schema file.",
    )


def without_absent(schema: LogSchema, present: Iterable[str], choice: ColumnChoice) -> LogSchema:
    """The schema without those of the chosen columns that a log does not have.

    Args:
        schema: The log's meaning.
        present: The log's columns as they lie, before forms.
        choice: Columns that may be absent.

    Raises:
        SchemaError: one of them is a column that every log has.
    """
    here = {*present}
    lists = {c: form for c, form in schema.forms.items() if first_read(c, form) in here}
    here |= {made for c, form in lists.items() for made in made_columns(c, form, candidates=c in schema.candidates)}
    if schema.candidates:
        there = [name for column, name in schema.candidates.items() if column in here]
        # Fields of structs are known once rows are read.
        below = schema.declared_grains() if "*" in there else {}
        here |= {*there, *(c for c, grain in below.items() if grain is Grain.IMPRESSION)}
    gone = [c for c in among(choice, schema.declared_grains()) if c not in here]
    for column in fixed_columns(schema):
        if column in gone and (column != schema.item or not schema.candidates):
            raise never_null(column)
    return schema.without(gone) if gone else schema
