"""A log's rows as a Spark frame, from the columns as they lie to standard columns.

All of it is expressions over one row: nothing is shuffled, no Python runs. What is wrong is refused where it is met,
by an expression that raises, so that no extra pass over the log is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.errors import SchemaError, known_names
from dedup_storage.forms import (
    Absent,
    ChosenForm,
    ColumnsForm,
    JsonForm,
    ListForm,
    Order,
    Padding,
    PairsForm,
    Side,
    SplitForm,
    first_read,
)
from dedup_storage.schema import LogSchema
from dedup_storage.sources.forms.json_columns import json_column
from dedup_storage.sources.forms.kinds import standard_kinds
from dedup_storage.sources.forms.refusals import (
    absent_choice,
    inner_padding,
    other_size,
    short_like,
    unequal_lists,
)
from dedup_storage.sources.forms.text_columns import guarded, pairs_column, split_column
from dedup_storage.sources.frames import arrow_types

__all__ = ["standard_frame", "standard_frames"]

# The lists of a column as they are before their padding is removed, while another column is cut like it.
_UNCUT = "_dedup_uncut_"


def standard_frames(
    frame: DataFrame, second: DataFrame | None, schema: LogSchema
) -> tuple[DataFrame, DataFrame | None]:
    """Rows of a log that may be two frames, in standard columns.

    Raises:
        SchemaError: a form does not fit its column, or reads one that neither frame has.
    """
    columns = [*frame.columns, *([] if second is None else second.columns)]
    for name, form in schema.forms.items():
        if not _is_here(name, form, columns, schema):
            read = first_read(name, form)
            raise SchemaError(
                f"forms names the column {read}, which is not in the log",
                expected=known_names(read, columns),
                fix="Correct the name in the schema file.",
            )
    return standard_frame(frame, schema), None if second is None else standard_frame(second, schema)


def standard_frame(frame: DataFrame, schema: LogSchema) -> DataFrame:
    """Rows in the standard columns of their log.

    Args:
        frame: Rows as they lie.
        schema: The log's meaning, with its forms; those of columns that are not here are another frame's.

    Raises:
        SchemaError: a form does not fit its column. What a value is not is refused when the rows are read.
    """
    forms = {c: f for c, f in schema.forms.items() if _is_here(c, f, frame.columns, schema)}
    if not forms:
        return frame
    schema = schema.model_copy(update={"forms": forms})
    standard_kinds(arrow_types(frame.schema), schema)
    lists = {c: f for c, f in forms.items() if isinstance(f, ListForm)}
    for name, form in lists.items():
        if isinstance(form, ColumnsForm):
            kept = [c for c in frame.columns if c not in form.columns]
            frame = frame.select(*kept, F.array(*form.columns).alias(name))
    frame = _replaced(frame, {c: _base(F.col(c), c, f, frame.schema[c].dataType) for c, f in lists.items()})
    frame = _without_padding(frame, lists)
    frame = _finished(frame, lists, schema)
    chosen = {c: f for c, f in forms.items() if isinstance(f, ChosenForm)}
    frame = frame.select("*", *(_chosen(c, f, frame).alias(c) for c, f in chosen.items()))
    return _with_equal_lists(frame, schema)


def _is_here(name: str, form: ListForm | ChosenForm, columns: list[str], schema: LogSchema) -> bool:
    """Whether what a form reads is among the columns, and not in another frame of the same log."""
    made = schema.made_by_forms if isinstance(form, ChosenForm) else ()
    return first_read(name, form) in (*columns, *made)


def _replaced(frame: DataFrame, made: Mapping[str, Column]) -> DataFrame:
    return frame.select(*(made[c].alias(c) if c in made else F.col(c) for c in frame.columns))


def _length(lists: Column) -> Column:
    return F.when(lists.isNull(), 0).otherwise(F.size(lists))


# -- what a column holds ------------------------------------------------------------------------------------------


def _base(column: Column, name: str, form: ListForm, kind: T.DataType) -> Column:
    """The column as lists, before anything is cut or turned; an object stays one."""
    if isinstance(form, SplitForm):
        made = split_column(column, name, form)
    elif isinstance(form, PairsForm):
        made = pairs_column(column, name, form)
    elif isinstance(form, JsonForm):
        made = json_column(column, name, form.json_type)
    else:
        made = column
    if form.size is None:
        return made
    shown = column if isinstance(kind, T.StringType) else F.to_json(column)
    return guarded(made, F.size(made) != form.size, other_size(name, form), shown)


# -- padding ------------------------------------------------------------------------------------------------------


def _without_padding(frame: DataFrame, forms: Mapping[str, ListForm]) -> DataFrame:
    padded = {c: f.padding for c, f in forms.items() if f.padding is not None}
    if not padded:
        return frame
    like = {c: p for c, p in padded.items() if p.like is not None}
    uncut = [F.col(c).alias(_UNCUT + c) for c in dict.fromkeys(str(p.like) for p in like.values())]
    kinds = {f.name: f.dataType for f in frame.schema.fields}
    cut = {c: _cut(F.col(c), c, p, kinds[c]) for c, p in padded.items() if p.like is None}
    columns = frame.columns
    made = frame.select(*(cut[c].alias(c) if c in cut else F.col(c) for c in columns), *uncut)
    if not like:
        return made
    shorter = {c: _cut_like(F.col(c), c, p) for c, p in like.items()}
    return made.select(*(shorter[c].alias(c) if c in shorter else F.col(c) for c in columns))


def _cut(lists: Column, name: str, padding: Padding, kind: T.DataType) -> Column:
    element = kind.elementType if isinstance(kind, T.ArrayType) else kind

    def is_padding(x: Column) -> Column:
        if padding.value is None:
            return x.isNull()
        if padding.value == "nan" and isinstance(element, (T.FloatType, T.DoubleType)):
            return F.isnan(F.coalesce(x, F.lit(0.0)))
        return x.eqNullSafe(F.lit(padding.value).cast(element))

    ahead = lists if padding.side is Side.LEFT else F.reverse(lists)
    first = F.array_position(F.transform(ahead, lambda x: ~is_padding(x)), True)
    left = F.when(first == 0, F.array().cast(kind)).otherwise(F.slice(ahead, first.cast("int"), F.size(ahead)))
    kept = left if padding.side is Side.LEFT else F.reverse(left)
    return guarded(kept, F.exists(left, is_padding), inner_padding(name, padding), F.to_json(lists))


def _cut_like(lists: Column, name: str, padding: Padding) -> Column:
    other, uncut = F.col(str(padding.like)), F.col(_UNCUT + str(padding.like))
    kept = F.size(other)
    start = F.size(lists) - kept + 1 if padding.side is Side.LEFT else F.lit(1)
    made = F.when(lists.isNotNull() & other.isNotNull(), F.slice(lists, start, kept)).otherwise(lists)
    return guarded(made, _length(lists) != _length(uncut), short_like(name, padding), F.to_json(lists))


# -- the standard columns -----------------------------------------------------------------------------------------


def _finished(frame: DataFrame, forms: Mapping[str, ListForm], schema: LogSchema) -> DataFrame:
    columns: list[Column] = []
    for name in frame.columns:
        form, column = forms.get(name), F.col(name)
        if form is None:
            columns.append(column)
            continue
        if form.order is Order.NEWEST_FIRST:
            column = F.reverse(column)
        fields = {f: f for f in form.fields} if isinstance(form, PairsForm) else dict(form.into)
        if not fields:
            columns.append(column.alias(name))
        elif name in schema.candidates:
            columns.append(F.transform(column, _renaming(fields)).alias(name))
        else:
            columns += [column.getField(field).alias(made) for field, made in fields.items()]
    return frame.select(*columns)


def _renaming(fields: Mapping[str, str]) -> Callable[[Column], Column]:
    def renamed(x: Column) -> Column:
        return F.when(x.isNotNull(), F.struct(*(x.getField(field).alias(made) for field, made in fields.items())))

    return renamed


def _chosen(name: str, form: ChosenForm, frame: DataFrame) -> Column:
    among, chosen = F.col(form.among), F.col(form.chosen)
    several = isinstance(frame.schema[form.chosen].dataType, T.ArrayType)

    def picked(x: Column) -> Column:
        found = F.array_contains(chosen, x) if several else chosen == x
        return F.coalesce(found, F.lit(False)).cast("int")

    made = F.transform(among, picked)
    if form.absent is Absent.IGNORE:
        return made

    def lost(x: Column) -> Column:
        return among.isNotNull() & x.isNotNull() & ~F.coalesce(F.array_contains(among, x), F.lit(False))

    shown: Any = F.to_json(chosen) if several else chosen
    return guarded(made, F.exists(chosen, lost) if several else lost(chosen), absent_choice(name, form), shown)


def _with_equal_lists(frame: DataFrame, schema: LogSchema) -> DataFrame:
    made, checked = set(schema.made_by_forms), {}
    for group in dict.fromkeys(s.group for s in schema.sequences if s.group is not None):
        members = [s.column for s in schema.sequences if s.group == group and s.column in frame.columns]
        if not made & set(members):
            continue
        leader = F.col(members[0])
        for name in members[1:]:
            lists = F.col(name)
            wrong = _length(lists) != _length(leader)
            checked[name] = guarded(lists, wrong, unequal_lists(name, members[0], group), F.to_json(lists))
    return _replaced(frame, checked)
