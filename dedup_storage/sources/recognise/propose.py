"""A schema for a log that nobody has described yet, with a reason for each choice. Pure Arrow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.errors import InputError
from dedup_storage.forms import ColumnsForm, PairsForm
from dedup_storage.schema import LogSchema
from dedup_storage.sources.forms.arrow import standard_table
from dedup_storage.sources.recognise import roles
from dedup_storage.sources.recognise.head import Head
from dedup_storage.sources.recognise.lists import look_at_lists
from dedup_storage.sources.recognise.nested import (
    find_candidates,
    impression_columns,
    in_parallel,
    is_struct_list,
    make_unique,
    part_of,
)
from dedup_storage.sources.recognise.proposal import FORMS, NEEDED, Proposal, names_of, with_more
from dedup_storage.sources.recognise.texts import text_form

__all__ = ["propose"]

_NUMBERED = re.compile(r"(.*?)([0-9]+)")
_WORDS = {"labels": "label", "event_time": "time of the event"}


def propose(head: Head, given: Mapping[str, Any]) -> Proposal:
    """Propose a schema.

    Args:
        head: The log's first rows.
        given: Keys of a schema file that are known; they win.
    """
    made = Proposal(dict(given))
    if head.header and not given.get("header"):
        made.values["header"] = list(head.header)
        made.because("header", "the files have no header: name their columns here, in their order")
        made.unsure["header"] = (
            f"the columns are called {head.header[0]} to {head.header[-1]} until they are named (--header a,b,c)"
        )
    forms: dict[str, Any] = dict(given.get("forms", {}))
    _text_forms(head.table, forms, made)
    # Once texts are split, they are looked at like other lists.
    _numbered(head.table, forms, made)
    split = _standard(head.table, forms, made)
    candidates = dict(given.get("candidates", {}))
    find_candidates(split, forms, candidates, made)
    _look_at_lists(split, forms, candidates, made)
    if forms:
        made.values["forms"] = FORMS.dump_python(
            FORMS.validate_python(forms), mode="json", exclude_defaults=True, by_alias=True
        )
    if candidates:
        made.values["candidates"] = candidates
    _roles(split, made)
    return made


def _text_forms(table: pa.Table, forms: dict[str, Any], made: Proposal) -> None:
    keys = {c for role in (*NEEDED, "event_time") for c in names_of(made.values.get(role))}
    for name in table.column_names:
        column = table[name]
        if name in forms or name in keys or not pa.types.is_string(column.type):
            continue
        form = text_form(name, column)
        if form is not None:
            forms[name] = form
            example = pc.utf8_slice_codeunits(column.drop_null()[0], 0, 40).as_py()
            kind = "pairs" if isinstance(form, PairsForm) else "JSON" if hasattr(form, "json_type") else "a list"
            made.because("forms", f"{name}: its texts are {kind}, such as {example!r}")


def _numbered(table: pa.Table, forms: dict[str, Any], made: Proposal) -> None:
    """Columns such as ``hist_1``, ``hist_2``, which are a list."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for item in table.schema:
        found = _NUMBERED.fullmatch(item.name)
        if found is not None and roles.is_history(found.group(1)) and not pa.types.is_nested(item.type):
            groups.setdefault(found.group(1).rstrip("_"), []).append((int(found.group(2)), item.name))
    for name, numbered in groups.items():
        columns = [column for _, column in sorted(numbered)]
        several = len(columns) > 2 and len({table.schema.field(c).type for c in columns}) == 1
        if several and name and name not in table.column_names:
            forms[name] = ColumnsForm(columns=tuple(columns))
            made.because("forms", f"{name}: the list of {columns[0]} to {columns[-1]}")
            made.unsure[name] = f"whether {columns[0]} or {columns[-1]} is the oldest element of {name} is not told"


def _standard(table: pa.Table, forms: dict[str, Any], made: Proposal) -> pa.Table:
    """The head with its texts split; a form that fails in a later row is taken back."""
    for name in list(forms):
        schema = LogSchema.from_dict({"user": "u_", "request": ["r_"], "item": "i_", "candidates": {name: "*"}})
        one = schema.model_copy(update={"forms": FORMS.validate_python({name: forms[name]})})
        form = one.forms[name]
        read = list(form.columns) if isinstance(form, ColumnsForm) else [name]
        if not set(read) <= set(table.column_names):
            continue
        try:
            rows = standard_table(table.select(read), one)
        except InputError as error:
            if name in made.values.get("forms", {}):
                raise
            made.unsure[name] = f"{name} looks like a list in most rows, but {error.what}"
            del forms[name]
            continue
        table = table.drop_columns(read).append_column(name, rows[name])
    return table


def _look_at_lists(table: pa.Table, forms: dict[str, Any], candidates: Mapping[str, Any], made: Proposal) -> None:
    scalars = {
        f.name: table[f.name] for f in table.schema
        if pa.types.is_list(f.type) and not pa.types.is_nested(f.type.value_type) and f.name not in candidates
    }  # fmt: skip
    given = made.values.get("forms", {})
    # Column that a list of objects becomes -> that list.
    sources: dict[str, str] = {}
    for item in table.schema:
        if is_struct_list(item.type) and item.name not in candidates and item.name not in given:
            parts = in_parallel(item, forms, made)
            scalars.update({name: part_of(table[item.name], at) for at, name in enumerate(parts)})
            sources.update(dict.fromkeys(parts, item.name))
    found = look_at_lists({c: v for c, v in scalars.items() if c not in given})
    for name, padding in found.padding.items():
        if name in sources:
            continue
        forms[name] = with_more(forms.get(name), padding=padding.model_dump(mode="json"))
        told = f"as {padding.like} is" if padding.like else f"with {padding.value!r}"
        made.because("forms", f"{name}: padded {told} on the {padding.side.value}")
    for name, order in found.order.items():
        forms[sources.get(name, name)] = with_more(forms.get(sources.get(name, name)), order=order.value)
    if found.order:
        telling = next(name for name in found.times if name in found.order)
        told = ", ".join(found.order)
        made.because("forms", f"{told}: newest first, since the times of {telling} go down; they are turned")
    made.times = {name: None if unit is None else unit.value for name, unit in found.times.items()}
    for text in found.unsure:
        made.unsure[text.partition(" ")[0]] = text


def _roles(table: pa.Table, made: Proposal) -> None:
    values = made.values
    candidates = values.get("candidates", {})
    looks = [
        roles.look(f.name, table[f.name]) for f in table.schema
        if not pa.types.is_nested(f.type) and f.name not in candidates
    ]  # fmt: skip
    found: dict[str, roles.Found | None] = {}
    named = [c for role in ("user", "item", "position", "labels") for c in names_of(values.get(role))]
    if "event_time" not in values:
        time = roles.find_time([x for x in looks if x.name not in named])
        if time is not None:
            found["event_time"], unit = time
            plain = unit is None
            values["event_time"] = time[0].column if plain else {"column": time[0].column, "unit": unit}
    at = next(iter(names_of(values.get("event_time"))), None)
    if "user" not in values:
        others = [*named, *names_of(values.get("request")), *([at] if at else [])]
        found["user"] = roles.find_user(looks, others)
    user = values.get("user") or _column(found.get("user"))
    if "item" not in values:
        found["item"] = _item_of(table, candidates) or roles.find_item(
            looks, [*named, user or "", at or "", *names_of(values.get("request"))]
        )
    item = values.get("item") or _column(found.get("item"))
    if "request" not in values:
        others = [*named, user or "", item or ""]
        found["request"] = roles.find_request(looks, others, at, nested=bool(candidates))
    if "labels" not in values:
        key = (user, item, at, _column(found.get("request")), *names_of(values.get("request")))
        others = [*named, *(c for c in key if c)]
        found["labels"] = _label_of(table, candidates) or roles.find_label(looks, others)
    odd = [f.name for f in table.schema if not (pa.types.is_integer(f.type) or pa.types.is_string(f.type))]
    for role, known in (("user", roles.USER), ("request", roles.REQUEST), ("item", roles.ITEM)):
        named_so = roles.by_name(odd, known) if role in found and found[role] is None else None
        if named_so is not None:
            made.unfit[role] = f"{named_so}, which its name tells, of type {table.schema.field(named_so).type}"
    texts = {x.name for x in looks if pa.types.is_string(x.kind)}
    for role, column in found.items():
        if column is None:
            continue
        if role == "labels" and column.column in texts:
            told = "its values are texts, of which numbers are to be made before training"
            column = replace(column, because=f"{column.because}, though {told}", sure=False)
        if role != "event_time":
            values[role] = [column.column] if role in ("request", "labels") else column.column
        made.because(role, f"{column.column}: {column.because}")
        if not column.sure:
            made.unsure[role] = f"{column.column} was taken for the {_WORDS.get(role, role)}: {column.because}"
    if "event_time" in found and not candidates and user:
        _refuse_moving_time(table, [user, *values.get("request", [])], made)
    if candidates and found.get("request") is not None and user:
        make_unique(table, looks, [user, *values["request"]], made)


def _refuse_moving_time(table: pa.Table, key: list[str], made: Proposal) -> None:
    """A time that differs inside a request is not the request's."""
    time = next(iter(names_of(made.values.get("event_time"))), None)
    if time is None or time in key or not set(key) <= set(table.column_names):
        return
    several = table.select([*key, time]).group_by([*key, time]).aggregate([]).num_rows
    if several != table.select(key).group_by(key).aggregate([]).num_rows:
        del made.values["event_time"]
        made.reasons.pop("event_time", None)
        made.unsure["event_time"] = (
            f"{time} differs inside requests, so that it is no time of the request: no column is"
        )


def _column(found: roles.Found | None) -> str | None:
    return None if found is None else found.column


def _item_of(table: pa.Table, candidates: Mapping[str, Any]) -> roles.Found | None:
    named = roles.by_name(impression_columns(table, candidates), roles.ITEM)
    return None if named is None else roles.Found(named, "part of the candidates", True)


def _label_of(table: pa.Table, candidates: Mapping[str, Any]) -> roles.Found | None:
    named = roles.by_name(impression_columns(table, candidates), roles.LABEL)
    return None if named is None else roles.Found(named, "part of the candidates", named not in ("type", "event"))
