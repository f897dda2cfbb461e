"""A log's rows as Arrow tables, from the columns as they lie to standard columns. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.runs import Int64, single_chunk
from dedup_storage.forms import (
    Absent,
    At,
    ChosenForm,
    ColumnsForm,
    JsonForm,
    ListForm,
    Order,
    Padding,
    PairsForm,
    SplitForm,
)
from dedup_storage.schema import LogSchema
from dedup_storage.sources.forms.items import bools, pattern_of, refuse, split_lists, split_texts, values_of
from dedup_storage.sources.forms.json_texts import json_values
from dedup_storage.sources.forms.kinds import standard_kinds
from dedup_storage.sources.forms.lists import Bools, Lists
from dedup_storage.sources.forms.refusals import (
    absent_choice,
    bad_pair,
    bad_part,
    inner_padding,
    other_size,
    short_like,
    unequal_lists,
)

__all__ = ["standard_table"]


def standard_table(table: pa.Table, schema: LogSchema) -> pa.Table:
    """Rows in the standard columns of their log.

    Args:
        table: Rows as they lie, in the one schema of all files.
        schema: The log's meaning, with its forms.

    Raises:
        SchemaError: a form does not fit its column.
        InputError: a value is not what its form tells; names the column, a value, and the remedy.
    """
    if not schema.forms:
        return table
    kinds = standard_kinds({f.name: f.type for f in table.schema}, schema)
    lists = {c: form for c, form in schema.forms.items() if isinstance(form, ListForm)}
    base = {
        column: _gathered(table, form) if isinstance(form, ColumnsForm)
        else _base(column, single_chunk(table[column]), form)
        for column, form in lists.items()
    }  # fmt: skip
    cut = _without_padding(base, lists)
    gathered = {c for form in lists.values() if isinstance(form, ColumnsForm) for c in form.columns}
    arrays: dict[str, pa.Array] = {}
    # Columns that are made of others come last.
    for column in dict.fromkeys((*table.column_names, *lists)):
        if column in gathered:
            continue
        form = schema.forms.get(column)
        if isinstance(form, ListForm):
            arrays.update(_finished(column, cut[column], form, column in schema.candidates))
        else:
            arrays[column] = table[column]
    for column, form in schema.forms.items():
        if isinstance(form, ChosenForm):
            arrays[column] = _chosen(column, form, arrays)
    _refuse_unequal(arrays, schema)
    return pa.table([_typed(arrays[c], kind) for c, kind in kinds.items()], names=list(kinds))


def _typed(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    """The names that Arrow gives to elements are no matter."""
    return column if column.type == kind else column.cast(kind)


# -- what a column holds ------------------------------------------------------------------------------------------


def _base(column: str, values: pa.Array, form: ListForm) -> pa.Array | Lists:
    """The column as lists, before anything is cut or turned; an object stays an array."""
    if isinstance(form, SplitForm):
        lists = split_lists(column, values, form)
    elif isinstance(form, PairsForm):
        lists = _pairs(column, values, form)
    else:
        found = json_values(column, values, form.json_type) if isinstance(form, JsonForm) else values
        if not pa.types.is_list(found.type):
            return found
        lists = Lists.of(found)
    if form.size is not None:
        wrong = (lists.lengths != form.size) & ~lists.missing
        refuse(other_size(column, form), wrong, _shown(values))
    return lists


def _gathered(table: pa.Table, form: ColumnsForm) -> Lists:
    """Columns side by side as a list in each row."""
    count, rows = len(form.columns), table.num_rows
    values = pa.concat_arrays([single_chunk(table[c]) for c in form.columns])
    places = (np.arange(rows)[:, None] + rows * np.arange(count)[None, :]).ravel()
    offsets = np.arange(rows + 1, dtype=np.int64) * count
    return Lists(values.take(pa.array(places)), offsets, np.zeros(rows, dtype=bool))


def _pairs(column: str, texts: pa.Array, form: PairsForm) -> Lists:
    lists, names = split_texts(column, texts, form), list(form.fields)
    items = lists.values
    if form.at is At.LAST:
        # The last separator: what stands before it may hold others.
        mark = pattern_of(form.pairs)
        found = pc.extract_regex(items, f"(?s)^(?P<a>.*){mark}(?P<b>.*?)$")
        parts = [pc.struct_field(found, [i]) for i in range(2)]
        refuse(bad_pair(column, form), bools(pc.is_null(found)), texts, lists)
    else:
        split = pc.split_pattern(items, form.pairs)
        refuse(bad_pair(column, form), bools(pc.not_equal(pc.list_value_length(split), len(names))), texts, lists)
        parts = [pc.list_element(split, i) for i in range(len(names))] if len(items) else [items] * len(names)
    arrays = []
    for name, part in zip(names, parts, strict=True):
        made, wrong = values_of(pc.utf8_trim(part, characters=" \t\r\n"), form.fields[name])
        refuse(bad_part(column, form, name), wrong, texts, lists)
        arrays.append(made)
    return lists.with_values(pa.StructArray.from_arrays(arrays, names=names))


def _shown(values: pa.Array) -> pa.Array:
    return values if pa.types.is_string(values.type) else _Rows(values)


class _Rows:
    """Rows of lists as texts, made where one is asked for."""

    def __init__(self, values: pa.Array) -> None:
        self._values = values

    def __getitem__(self, row: int) -> pa.Scalar:
        return pa.scalar(json.dumps(self._values[row].as_py(), default=str, separators=(",", ":")))


# -- padding ------------------------------------------------------------------------------------------------------


def _without_padding(
    base: Mapping[str, pa.Array | Lists], forms: Mapping[str, ListForm]
) -> dict[str, pa.Array | Lists]:
    cut: dict[str, pa.Array | Lists] = {}
    kept: dict[str, tuple[Int64, Int64]] = {}
    # Those that are cut like another one come after it.
    for column, form in sorted(forms.items(), key=lambda item: bool(item[1].padding and item[1].padding.like)):
        lists, padding = base[column], form.padding
        if padding is None or not isinstance(lists, Lists):
            cut[column] = lists
            continue
        if padding.like is None:
            kept[column] = _kept(column, lists, padding)
        else:
            other = base[padding.like]
            same = isinstance(other, Lists) and lists.lengths == other.lengths
            refuse(short_like(column, padding), ~np.asarray(same), _shown(lists.array()))
            kept[column] = kept[padding.like]
        cut[column] = lists.between(*kept[column])
    return cut


def _kept(column: str, lists: Lists, padding: Padding) -> tuple[Int64, Int64]:
    padded = _equal(lists.values, padding)
    first, last = lists.filled(padded, left=padding.side.value == "left")
    before = np.concatenate([[0], np.cumsum(padded)])
    refuse(inner_padding(column, padding), before[last] > before[first], _shown(lists.array()))
    return first, last


def _equal(values: pa.Array, padding: Padding) -> Bools:
    if padding.value is None:
        return bools(pc.is_null(values))
    if padding.value == "nan" and pa.types.is_floating(values.type):
        return bools(pc.is_nan(values))
    return bools(pc.equal(values, pa.scalar(padding.value).cast(values.type)))


# -- the standard columns -----------------------------------------------------------------------------------------


def _finished(column: str, found: pa.Array | Lists, form: ListForm, candidates: bool) -> dict[str, pa.Array]:
    if isinstance(found, Lists):
        lists = found.turned() if form.order is Order.NEWEST_FIRST else found
        fields = {f: f for f in form.fields} if isinstance(form, PairsForm) else dict(form.into)
        if not fields:
            return {column: lists.array()}
        parts = {name: pc.struct_field(lists.values, field) for field, name in fields.items()}
        if candidates:
            struct = pa.StructArray.from_arrays(list(parts.values()), names=list(parts), mask=lists.values.is_null())
            return {column: lists.with_values(struct).array()}
        return {name: lists.with_values(part).array() for name, part in parts.items()}
    if form.into:
        return {name: pc.struct_field(found, field) for field, name in form.into.items()}
    return {column: found}


def _chosen(column: str, form: ChosenForm, arrays: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Array:
    among = Lists.of(_one(arrays[form.among]))
    told = _one(arrays[form.chosen])
    chosen = Lists.of(told) if pa.types.is_list(told.type) else _alone(told)
    # A row and a value are one number.
    both = pa.concat_arrays([among.values, chosen.values]).dictionary_encode()
    codes = pc.fill_null(both.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    width = len(both.dictionary) + 1
    rows = [np.repeat(np.arange(len(lists.lengths), dtype=np.int64), lists.lengths) for lists in (among, chosen)]
    keys = np.concatenate(rows) * width + codes
    candidates, picked = keys[: len(among.values)], keys[len(among.values) :]
    known = (codes[len(among.values) :] >= 0) & np.repeat(~among.missing, chosen.lengths)
    if form.absent is Absent.REFUSE:
        lost = known & ~np.isin(picked, candidates)
        refuse(absent_choice(column, form), lost, _shown(told), chosen)
    flags = np.isin(candidates, picked[known]).astype(np.int32)
    return among.with_values(pa.array(flags)).array()


def _alone(values: pa.Array) -> Lists:
    """Each value as a list of one; null as an empty list."""
    there = values.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(there)]).astype(np.int64)
    return Lists(values.drop_null(), offsets, np.zeros(len(values), dtype=bool))


def _one(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return single_chunk(column)


def _refuse_unequal(arrays: Mapping[str, pa.Array | pa.ChunkedArray], schema: LogSchema) -> None:
    made = set(schema.made_by_forms)
    for group in dict.fromkeys(s.group for s in schema.sequences if s.group is not None):
        members = [s.column for s in schema.sequences if s.group == group and s.column in arrays]
        if not made & set(members):
            continue
        leader = Lists.of(_one(arrays[members[0]])).lengths
        for column in members[1:]:
            lists = _one(arrays[column])
            wrong = Lists.of(lists).lengths != leader
            refuse(unequal_lists(column, members[0], group), wrong, _shown(lists))
