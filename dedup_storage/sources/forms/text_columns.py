"""Texts of a column as lists of values: expressions over one text, the same rules as ``items``."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

from dedup_storage.forms import BLANKS, At, ElementType, PairsForm, SplitForm, TextForm
from dedup_storage.sources.forms.items import NUMBER, WHOLE, pattern_of
from dedup_storage.sources.forms.refusals import (
    EXAMPLE,
    Refusal,
    bad_pair,
    bad_part,
    bare_item,
    no_brackets,
    no_item,
)
from dedup_storage.spark.raising import raise_input

__all__ = ["guarded", "pairs_column", "split_column"]


def guarded(value: Column, wrong: Column, refusal: Refusal, example: Column) -> Column:
    """The value, or a refusal where it is wrong; null is not wrong."""
    error = raise_input(refusal.what, refusal.expected, refusal.fix, example, EXAMPLE)
    return F.when(wrong, error).otherwise(value)


def split_column(column: Column, name: str, form: SplitForm) -> Column:
    """Texts of the form ``split`` as lists of values."""
    return F.transform(_split(column, name, form), lambda x: _item(x, column, name, form))


def pairs_column(column: Column, name: str, form: PairsForm) -> Column:
    """Texts of the form ``pairs`` as lists of structs."""
    return F.transform(_split(column, name, form), lambda x: _pair(x, column, name, form))


def _trimmed(text: Column) -> Column:
    return F.btrim(text, F.lit(BLANKS))


def _split(column: Column, name: str, form: TextForm) -> Column:
    inner = _trimmed(column)
    if form.brackets is not None:
        framed = inner.startswith(form.brackets[0]) & inner.endswith(form.brackets[1]) & (F.length(inner) >= 2)
        bare = _trimmed(F.substring(inner, F.lit(2), F.length(inner) - 2))
        inner = guarded(bare, ~framed, no_brackets(name, form), column)
    items = F.transform(F.split(inner, pattern_of(form.split), -1), _trimmed)
    # An empty text is a list of nothing, not of one empty item.
    return F.when(inner == "", F.array().cast("array<string>")).otherwise(items)


def _item(item: Column, column: Column, name: str, form: SplitForm) -> Column:
    text = item
    if form.quote is not None:
        mark = pattern_of(form.quote)
        bare = ~item.rlike(f"(?s)^{mark}[^{mark}]*{mark}$")
        text = F.substring(item, F.lit(2), F.length(item) - 2)
        text = guarded(text, bare, bare_item(name, form), column)
    value, fits = _value(text, form.type, empty=form.quote is not None)
    made = guarded(value, ~fits, no_item(name, form), column)
    return made if form.missing is None else F.when(item != form.missing, made)


def _value(text: Column, kind: ElementType, *, empty: bool = False) -> tuple[Column, Column]:
    """The value of a text, and whether it is one; as ``items.values_of``."""
    if kind is ElementType.STRING:
        return text, F.lit(True) if empty else text != ""
    if kind is ElementType.BOOLEAN:
        return text.isin("true", "True"), text.isin("true", "True", "false", "False")
    value = text.try_cast(kind.value)
    if kind in (ElementType.INT, ElementType.BIGINT):
        return value, text.rlike(WHOLE) & value.isNotNull()
    return value, text.rlike(NUMBER) & value.isNotNull() & (F.abs(value) < float("inf"))


def _pair(item: Column, column: Column, name: str, form: PairsForm) -> Column:
    names, mark = list(form.fields), pattern_of(form.pairs)
    if form.at is At.LAST:
        whole = f"(?s)^(.*){mark}(.*?)$"
        parts = [F.regexp_extract(item, whole, i) for i in (1, 2)]
        wrong = ~item.rlike(whole)
    else:
        split = F.split(item, mark, -1)
        parts, wrong = [F.get(split, i) for i in range(len(names))], F.size(split) != len(names)
    made = []
    for field, part in zip(names, parts, strict=True):
        value, fits = _value(_trimmed(part), form.fields[field])
        made.append(guarded(value, ~fits, bad_part(name, form, field), column).alias(field))
    return guarded(F.struct(*made), wrong, bad_pair(name, form), column)
