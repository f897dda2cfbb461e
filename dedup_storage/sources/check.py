"""What footers and headers tell of a log, held against its schema before anything is started. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import pyarrow as pa

from dedup_storage.errors import SchemaError, known_names
from dedup_storage.layout import free_name
from dedup_storage.report.parquet.one_schema import joined
from dedup_storage.schema import LogSchema, check_name
from dedup_storage.sources.address import Kind
from dedup_storage.sources.declared import refuse_other_types
from dedup_storage.sources.forms.kinds import standard_kinds
from dedup_storage.sources.remedies import change_of
from dedup_storage.sources.reserved import refuse_reserved, refuse_twice
from dedup_storage.sources.source import Source
from dedup_storage.sources.unsigned import UNSIGNED

__all__ = ["check_columns", "check_named", "check_source", "other_keys", "refuse_inner"]

_KEY = "an integer or a text"
_WHOLE = (pa.int32(), pa.int64())


def _is_key(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind))


def _is_user(kind: pa.DataType) -> bool:
    return bool(kind in _WHOLE or pa.types.is_string(kind))


def _is_request_key(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(_is_key(kind) or types.is_date(kind) or types.is_timestamp(kind) or types.is_decimal(kind))


def _is_item(kind: pa.DataType) -> bool:
    return bool(_is_key(kind) or pa.types.is_date(kind) or pa.types.is_binary(kind) or kind == UNSIGNED)


def _is_time(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_timestamp(kind) or types.is_date(kind) or types.is_integer(kind) or types.is_floating(kind)
        or types.is_decimal(kind) or types.is_string(kind)
    )  # fmt: skip


def other_keys(key: str, here: str, there: str) -> SchemaError:
    """The refusal of two frames whose keys have types of which no cast makes one: unequal ones would meet."""
    return SchemaError(
        f"the key column {key} has another type in the impressions than in the requests",
        expected=here,
        got=there,
        fix=f"Cast {key} in one of them.",
    )


def check_source(source: Source, schema: LogSchema, *, impressions: Source | None = None) -> None:
    """Check a log's columns and their types; a table, whose columns Spark knows, is left to it.

    Args:
        source: The log.
        schema: Its meaning.
        impressions: The impression rows, when ``source`` holds the requests alone.

    Raises:
        SchemaError: a column is missing, or has a type that its role cannot have; names it and the remedy.
        UnsafeNameError: a column's name cannot be used.
    """
    sources = [s for s in (source, impressions) if s is not None]
    for each in sources:
        refuse_twice(f.name for f in each.schema)
    kinds = {f.name: f.type for s in sources for f in s.schema}
    if not kinds and any(s.address.kind is Kind.TABLE for s in sources):
        return
    if impressions is not None and source.schema and impressions.schema:
        for key in schema.request_key:
            here, there = ({f.name: f.type for f in s.schema}.get(key) for s in sources)
            if here is not None and there is not None and joined(here, there) is None:
                raise other_keys(key, str(here), str(there))
    lying, kinds = kinds, standard_kinds(kinds, schema)
    for name in kinds:
        check_name(name, "column name")
    refuse_twice(kinds)
    refuse_inner(schema, kinds, [n for c, taken in schema.candidates.items() for n in _made_of(kinds.get(c), taken)])
    schema.require_columns(kinds, source.address.source)
    refuse_other_types(schema, lying, kinds, source.address.source, source.address.kind)

    def demand(
        column: str | None,
        role: str,
        fits: Callable[[pa.DataType], bool],
        expected: str,
        wanted: pa.DataType | None = None,
    ) -> None:
        if column is not None and column in kinds and not fits(kinds[column]):
            remedy = change_of(source.address.kind, column, wanted, kinds[column])
            raise SchemaError(
                f"the {role} {column} has a type that cannot be used",
                expected=expected,
                got=f"{kinds[column]} in {source.address.source}",
                fix=f"{remedy}, or name another column in the schema.",
            )

    demand(schema.user, "user key", _is_user, "an integer of 32 or 64 bits or a text")
    for column in schema.request:
        demand(column, "request key", _is_request_key, f"{_KEY}, a decimal, a date or a timestamp")
    demand(schema.item, "item", _is_item, "an integer of at most 64 bits, a text or a date")
    demand(schema.event_time, "event time", _is_time, "a timestamp, a date, or a number or text that tells one")
    demand(schema.position, "position", pa.types.is_integer, "an integer", pa.int64())
    for column in (*schema.sequence_columns, *schema.candidates):
        demand(column, "list column", pa.types.is_list, "a list", pa.list_(pa.int64()))


def refuse_inner(schema: LogSchema, columns: Collection[str], inner: Sequence[str]) -> None:
    """Refuse names that candidates have inside, and that no column of impressions can have.

    Args:
        schema: The log's meaning.
        columns: Its columns, lists of candidates among them.
        inner: What becomes of these lists.

    Raises:
        SchemaError: a name is taken, by a column of the request too; names it.
        UnsafeNameError: a name cannot be used.
    """
    for name in inner:
        check_name(name, "column name")
    refuse_reserved(inner)
    refuse_twice(inner)
    of_request = {c.lower() for c in columns if c not in schema.candidates}
    for name in inner:
        if name.lower() in of_request:
            raise SchemaError(f"the impression column {name} is also a request column", fix="Rename it.")


def check_named(source: Source, schema: LogSchema, *, impressions: Source | None = None) -> None:
    """Check what else a schema names in the log that a dataset begins with: columns inside candidates, and of bounds.

    A later log may lack some of these, where that is said; a table's columns are known to Spark alone.

    Args:
        source, schema, impressions: As for ``check_source``, which is asked first.

    Raises:
        SchemaError: names the column, those that are there, and the remedy.
    """
    lying = {f.name: f.type for s in (source, impressions) if s is not None for f in s.schema}
    if lying:
        _refuse_unknown(standard_kinds(lying, schema), schema, source.address.source)


def check_columns(lying: Mapping[str, pa.DataType], schema: LogSchema, place: str) -> None:
    """Check that a log has every column that a schema names, whatever its type.

    Args:
        lying: Columns of the log as they lie, with types as far as they are known.
        schema: Its meaning.
        place: The log, for the message.

    Raises:
        SchemaError: names the column, those that are there, and the remedy.
    """
    kinds = standard_kinds(lying, schema)
    schema.require_columns(kinds, place)
    _refuse_unknown(kinds, schema, place)


def _refuse_unknown(kinds: Mapping[str, pa.DataType], schema: LogSchema, place: str) -> None:
    inner = [name for column, taken in schema.candidates.items() for name in _made_of(kinds.get(column), taken)]
    there = [*(c for c in kinds if c not in schema.candidates), *inner]
    # A write makes these columns where the log has none.
    made = {schema.position or free_name("position", there), free_name("event_date", there)}
    roles = [("item", schema.item), *(("labels", c) for c in schema.labels)]
    roles += [("columns", c) for c in schema.columns] + [("checks", c) for c in schema.checks]
    for role, column in roles:
        if column is not None and column not in there and column not in made:
            raise SchemaError(
                f"{role} names the column {column}, which is not in {place}",
                expected=known_names(column, there),
                fix="Correct the name in the schema file.",
            )


def _made_of(kind: pa.DataType | None, taken: str) -> list[str]:
    """Impression columns that a list of candidates becomes."""
    if taken != "*":
        return [taken]
    if kind is None or not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return []
    return [field.name for field in kind.value_type]
