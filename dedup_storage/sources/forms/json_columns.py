"""JSON texts of a column as values of their type, by Spark's own parser.

``from_json`` makes a text of a number, and a null of what it does not understand. A variant keeps what stands there,
so each value is asked what it is before it is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from dedup_storage.forms import ElementType
from dedup_storage.sources.forms.kinds import json_text
from dedup_storage.sources.forms.refusals import EXAMPLE, bad_json
from dedup_storage.spark.raising import raise_input

__all__ = ["json_column"]

_KINDS = {
    ElementType.STRING: "^STRING$",
    ElementType.INT: "^BIGINT$",
    ElementType.BIGINT: "^BIGINT$",
    ElementType.FLOAT: "^(BIGINT|DECIMAL.*|FLOAT|DOUBLE)$",
    ElementType.DOUBLE: "^(BIGINT|DECIMAL.*|FLOAT|DOUBLE)$",
    ElementType.BOOLEAN: "^BOOLEAN$",
}
_NULL = "VOID"


def json_column(column: Column, name: str, told: Any) -> Column:
    """The column's texts as values; a null text and the text ``null`` are null. Whatever is no such JSON is refused.

    Args:
        column: Texts.
        name: The column's name.
        told: The type, as the schema file tells it.
    """
    refusal = bad_json(name, json_text(told))
    error = raise_input(refusal.what, refusal.expected, refusal.fix, column, EXAMPLE)
    # The parser stops behind the first value. In a list that ends with a hash of the text nothing can stand before,
    # between or behind: no text holds its own hash by chance.
    mark = F.xxhash64(column)
    listed = F.try_parse_json(F.concat(F.lit("["), column, F.lit(","), mark.cast("string"), F.lit("]")))

    def value(parsed: Column) -> Column:
        root = F.when(_part(parsed, "$[1]", "bigint") == mark, _part(parsed, "$[0]", "variant"))
        typed = _typing(told, error)
        return _bound(root, lambda x: F.when(x.isNull(), error).otherwise(typed(x)))

    return F.when(column.isNotNull(), _bound(listed, value))


def _bound(value: Column, made: Callable[[Column], Column]) -> Column:
    """What is made of a value that is computed once, however often it is named."""
    return F.get(F.transform(F.array(value), made), 0)


def _part(value: Column, path: str, kind: str) -> Column:
    return F.try_variant_get(value, path, kind)


def _typing(told: Any, error: Column) -> Callable[[Column], Column]:
    return lambda x: _typed(x, told, error)


def _typed(value: Column, told: Any, error: Column) -> Column:
    """A variant as a value of its type, or the error."""
    kind = F.schema_of_variant(value)
    if isinstance(told, ElementType):
        made = _part(value, "$", told.value)
        fits = kind.rlike(_KINDS[told]) & made.isNotNull()
        if told in (ElementType.FLOAT, ElementType.DOUBLE):
            fits = fits & (F.abs(made) < float("inf"))
    elif isinstance(told, list):
        made = F.transform(_part(value, "$", "array<variant>"), _typing(told[0], error))
        fits = kind.startswith("ARRAY")
    else:
        fields = [
            _bound(_part(value, _path(field), "variant"), _typing(inner, error)).alias(field)
            for field, inner in told.items()
        ]
        made, fits = F.struct(*fields), kind.startswith("OBJECT")
    return F.when(value.isNull() | (kind == _NULL), None).when(fits, made).otherwise(error)


def _path(field: str) -> str:
    quoted = field.replace("\\", "\\\\").replace('"', '\\"')
    return f'$["{quoted}"]'
