"""Which columns a log has once its forms are applied, from the columns that it has as it lies. Pure Arrow.

Both engines ask here first, so that a form that does not fit its column is refused in the same words, before any row
is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from dedup_storage.errors import SchemaError, known_names
from dedup_storage.forms import (
    ChosenForm,
    ColumnsForm,
    ElementType,
    JsonForm,
    ListForm,
    Padding,
    PairsForm,
    SplitForm,
    TextForm,
    made_columns,
)
from dedup_storage.schema import LogSchema
from dedup_storage.sources.forms.items import ARROW_TYPES

__all__ = ["json_text", "json_type", "list_of", "standard_kinds"]


def list_of(kind: pa.DataType) -> pa.DataType:
    """The plain type of lists of a type."""
    return pa.list_(pa.field("element", kind))


def json_type(told: Any) -> pa.DataType:
    """Arrow's type of a JSON text's type as the schema file tells it."""
    if isinstance(told, ElementType):
        return ARROW_TYPES[told]
    if isinstance(told, list):
        return list_of(json_type(told[0]))
    return pa.struct([(name, json_type(inner)) for name, inner in told.items()])


def json_text(told: Any) -> str:
    """A JSON text's type as the schema file tells it."""
    if isinstance(told, ElementType):
        return told.value
    if isinstance(told, list):
        return f"[{json_text(told[0])}]"
    return "{" + ", ".join(f"{name}: {json_text(inner)}" for name, inner in told.items()) + "}"


def standard_kinds(kinds: Mapping[str, pa.DataType], schema: LogSchema) -> dict[str, pa.DataType]:
    """Column -> type of the standard columns, in order.

    Args:
        kinds: Column -> type of the log as it lies.
        schema: Its meaning.

    Raises:
        SchemaError: a form does not fit its column; names the column, the type expected and the type found.
    """
    found: dict[str, pa.DataType] = {}
    gathered = {c for form in schema.forms.values() if isinstance(form, ColumnsForm) for c in form.columns}
    for column, kind in kinds.items():
        form = schema.forms.get(column)
        if column in gathered:
            continue
        made = {column: kind} if form is None else _made(column, kind, form, schema)
        for name, standard in made.items():
            if name in found or (name != column and name in kinds and name not in schema.forms):
                raise SchemaError(
                    f"the form of the column {column} makes a column {name}, which the log has already",
                    expected="another name",
                    fix=f"Name it otherwise in forms.{column}.",
                )
            found[name] = standard
    for column, form in schema.forms.items():
        if isinstance(form, ChosenForm):
            found[column] = _chosen(column, form, found)
        elif isinstance(form, ColumnsForm):
            found[column] = _gathered(column, form, kinds)
        elif column not in kinds:
            raise SchemaError(
                f"forms names the column {column}, which is not in the log",
                expected=known_names(column, kinds),
                fix="Correct the name in the schema file.",
            )
    return found


def _made(column: str, kind: pa.DataType, form: ListForm | ChosenForm, schema: LogSchema) -> dict[str, pa.DataType]:
    if isinstance(form, (ChosenForm, ColumnsForm)):
        raise SchemaError(
            f"the form of {column} makes a column {column}, which the log has already",
            expected="a new name for the column that it makes",
            fix=f"Name it otherwise under forms, or leave forms.{column} out.",
        )
    base = _base(column, kind, form)
    _check_list(column, base, form)
    candidates = column in schema.candidates
    names = list(made_columns(column, form, candidates=candidates))
    if names == [column] and not (isinstance(form, ListForm) and form.into):
        return {column: base}
    if candidates:
        return {column: _renamed(column, base, form)}
    listed = pa.types.is_list(base)
    struct = base.value_type if listed else base
    fields = list(form.fields) if isinstance(form, PairsForm) else list(form.into)
    types = [struct.field(_field(column, struct, field)).type for field in fields]
    return {name: list_of(t) if listed else t for name, t in zip(names, types, strict=True)}


def _renamed(column: str, base: pa.DataType, form: ListForm) -> pa.DataType:
    """Candidates that are objects keep the fields of ``into``, under the names told there."""
    if not form.into:
        return base
    struct = base.value_type if pa.types.is_list(base) else base
    return list_of(pa.struct([(n, struct.field(_field(column, struct, f)).type) for f, n in form.into.items()]))


def _field(column: str, struct: pa.DataType, name: str) -> int:
    at: int = struct.get_field_index(name)
    if at < 0:
        raise SchemaError(
            f"forms.{column}.into names the field {name}, which the column {column} does not have",
            expected=known_names(name, [f.name for f in struct]),
            fix="Correct the name in the schema file.",
        )
    return at


def _base(column: str, kind: pa.DataType, form: ListForm) -> pa.DataType:
    """The type before padding, order and ``into``."""
    if isinstance(form, (TextForm, JsonForm)) and not pa.types.is_string(kind):
        told = "json" if isinstance(form, JsonForm) else "pairs" if isinstance(form, PairsForm) else "split"
        raise SchemaError(
            f"forms.{column} tells how a text is read, but the column {column} holds no texts",
            expected="a text",
            got=str(kind),
            fix=f"Leave {told} out, or name another column.",
        )
    if isinstance(form, SplitForm):
        return list_of(ARROW_TYPES[form.type])
    if isinstance(form, PairsForm):
        return list_of(pa.struct([(name, ARROW_TYPES[t]) for name, t in form.fields.items()]))
    if isinstance(form, JsonForm):
        return json_type(form.json_type)
    objects = pa.types.is_struct(kind) and form.into and form == ListForm(into=form.into)
    if not pa.types.is_list(kind) and not objects:
        raise SchemaError(
            f"forms.{column} tells how a list is read, but the column {column} holds no lists",
            expected="a list" + (", or an object" if form.into else ""),
            got=str(kind),
            fix=f"Add to forms.{column} how its texts are split, or leave it out.",
        )
    return kind


def _gathered(column: str, form: ColumnsForm, kinds: Mapping[str, pa.DataType]) -> pa.DataType:
    for name in form.columns:
        if name not in kinds:
            raise SchemaError(
                f"forms.{column}.columns names the column {name}, which is not in the log",
                expected=known_names(name, kinds), fix="Correct the name in the schema file.",
            )  # fmt: skip
        if kinds[name] != kinds[form.columns[0]]:
            raise SchemaError(
                f"the columns {form.columns[0]} and {name}, of which {column} is made, have different types",
                expected=str(kinds[form.columns[0]]), got=str(kinds[name]),
                fix="Cast one of them in the log, or say their types in the schema: types.",
            )  # fmt: skip
    made = list_of(kinds[form.columns[0]])
    _check_list(column, made, form)
    return made


def _check_list(column: str, base: pa.DataType, form: ListForm) -> None:
    element = base.value_type if pa.types.is_list(base) else None
    inner = element if element is not None else base
    if form.into and not pa.types.is_struct(inner):
        raise SchemaError(
            f"forms.{column}.into is for lists of objects", expected="objects", got=str(inner),
            fix=f"Leave forms.{column}.into out.",
        )  # fmt: skip
    if form.padding is not None and form.padding.like is None and not _fits(form.padding, inner):
        raise SchemaError(
            f"forms.{column}.padding.value is no element of the lists of {column}",
            expected=f"a value of the type {inner}, or null",
            got=repr(form.padding.value),
            fix="Correct it in the schema file; a text stands in quotes.",
        )


def _fits(padding: Padding, element: pa.DataType) -> bool:
    value, types = padding.value, pa.types
    if value is None:
        return True
    if types.is_floating(element):
        return value == "nan" or (isinstance(value, (int, float)) and not isinstance(value, bool))
    if types.is_integer(element):
        bound = 2 ** (element.bit_width - 1)
        return isinstance(value, int) and not isinstance(value, bool) and -bound <= value < bound
    if types.is_boolean(element):
        return isinstance(value, bool)
    return bool(types.is_string(element)) and isinstance(value, str)


def _chosen(column: str, form: ChosenForm, found: Mapping[str, pa.DataType]) -> pa.DataType:
    for key, name in (("among", form.among), ("chosen", form.chosen)):
        if name not in found:
            raise SchemaError(
                f"forms.{column}.{key} names the column {name}, which is not in the log",
                expected=known_names(name, found), fix="Correct the name in the schema file.",
            )  # fmt: skip
    among, chosen = found[form.among], found[form.chosen]
    if not pa.types.is_list(among):
        raise SchemaError(f"forms.{column}.among names no list", expected="a list of candidates", got=str(among))
    other = chosen.value_type if pa.types.is_list(chosen) else chosen
    if other != among.value_type:
        raise SchemaError(
            f"{form.chosen} and {form.among} hold values of different types: forms.{column} compares them",
            expected=str(among.value_type),
            got=str(other),
            fix="Cast one of them in the log, or say its type under forms or types.",
        )
    return list_of(pa.int32())
