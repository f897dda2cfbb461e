"""Lists whose elements are candidates, or objects; requests of logs with a row for each. Pure Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.dedup.runs import single_chunk
from dedup_storage.forms import ElementType, PairsForm, SplitForm
from dedup_storage.sources.forms.lists import Lists
from dedup_storage.sources.recognise import roles
from dedup_storage.sources.recognise.lists import plausible_unit
from dedup_storage.sources.recognise.proposal import Proposal, with_more

__all__ = ["find_candidates", "impression_columns", "in_parallel", "is_struct_list", "make_unique", "part_of"]

# More values than these are no labels.
_FEW = 20


def is_struct_list(kind: pa.DataType) -> bool:
    """Whether lists of a type hold objects."""
    return bool(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))


def find_candidates(table: pa.Table, forms: dict[str, Any], candidates: dict[str, Any], made: Proposal) -> None:
    """Lists whose elements are the candidates of a request."""
    if candidates or (made.values.get("item") in table.column_names):
        return
    lists = [f for f in table.schema if pa.types.is_list(f.type)]
    # A column of items that is null in most rows is not the item of every row.
    filled = [f.name for f in table.schema if 2 * table[f.name].null_count < table.num_rows]
    flat = roles.by_name(
        [f.name for f in table.schema if f.name in filled and not pa.types.is_list(f.type)], roles.ITEM
    )
    for item in lists:
        form = forms.get(item.name)
        if not is_struct_list(item.type) or roles.is_history(item.name):
            continue
        fields = [f.name for f in item.type.value_type]
        told = flat is None and roles.by_name(fields, roles.ITEM) is not None
        if _are_labelled(table[item.name]) if isinstance(form, PairsForm) else told:
            candidates[item.name] = "*"
            made.because("candidates", f"{item.name}: a row for each of its elements")
            return
    named = roles.by_name([f.name for f in lists if not is_struct_list(f.type)], roles.CANDIDATES)
    if named is None or flat is not None:
        return
    candidates[named] = "item_id"
    made.because("candidates", f"{named}: by its name; a row for each of its elements")
    _chosen(table, named, forms, candidates, made)


def _are_labelled(pairs: pa.ChunkedArray) -> bool:
    """Whether the second parts of pairs are labels: few values, and no times."""
    labels = single_chunk(pc.struct_field(pc.list_flatten(pairs), [1]))
    return bool(pc.count_distinct(labels).as_py() <= _FEW and plausible_unit(labels) is None)


def _chosen(table: pa.Table, named: str, forms: dict[str, Any], candidates: dict[str, Any], made: Proposal) -> None:
    """Which of the candidates were chosen, and lists that run beside them."""
    among = table[named]
    lengths = pc.fill_null(pc.list_value_length(among), 0)
    for other in table.schema:
        same = pa.types.is_list(other.type) and other.name != named
        if same and pc.all(pc.equal(pc.fill_null(pc.list_value_length(table[other.name]), 0), lengths)).as_py():
            candidates[other.name] = other.name.removesuffix("s")
            made.because("candidates", f"{other.name}: as long as {named} in every row")
    element = among.type.value_type
    texts = [f.name for f in table.schema if pa.types.is_string(f.type) and f.name not in candidates]
    if isinstance(forms.get(named), SplitForm) and roles.by_name(texts, roles.CHOSEN):
        # What was chosen is a text: so are the candidates that it is compared with.
        forms[named], element = forms[named].model_copy(update={"type": ElementType.STRING}), pa.string()
    fits = [
        f.name for f in table.schema
        if f.name != named and f.name not in candidates
        and (f.type.value_type if pa.types.is_list(f.type) else f.type) == element
    ]  # fmt: skip
    chosen = roles.by_name(fits, roles.CHOSEN)
    if chosen is not None and "label" not in table.column_names:
        forms["label"] = {"chosen": chosen, "among": named}
        candidates["label"] = "label"
        made.because("forms", f"label: 1 where an element of {named} is among {chosen}")
        made.unsure["label"] = f"whether {chosen} tells what was chosen of {named} was taken from its name"
        made.unsure[chosen] = f"{chosen} tells the outcome of its request: it is no feature to train on"


def in_parallel(item: pa.Field, forms: dict[str, Any], made: Proposal) -> list[str]:
    """Names of the parallel lists that a list of objects becomes, since it holds no candidates."""
    form, fields = forms.get(item.name), [f.name for f in item.type.value_type]
    if isinstance(form, PairsForm):
        names = [f"{item.name}_item", f"{item.name}_value"]
        kinds = dict(zip(names, form.fields.values(), strict=True))
        forms[item.name] = form.model_copy(update={"fields": kinds})
    else:
        names = [f"{item.name}_{field}" for field in fields]
        forms[item.name] = with_more(form, into=dict(zip(fields, names, strict=True)))
    made.because("forms", f"{item.name}: its parts become parallel lists")
    return names


def part_of(lists: pa.ChunkedArray, field: int) -> pa.ChunkedArray:
    """One field of lists of objects."""
    whole = Lists.of(single_chunk(lists))
    return pa.chunked_array([whole.with_values(pc.struct_field(whole.values, [field])).array()])


def impression_columns(table: pa.Table, candidates: Mapping[str, Any]) -> list[str]:
    """Impression columns that the candidates become."""
    parts: list[str] = []
    for name, column in candidates.items():
        if column != "*":
            parts.append(column)
        elif name in table.column_names and is_struct_list(table.schema.field(name).type):
            parts += [f.name for f in table.schema.field(name).type.value_type]
    return parts


def make_unique(table: pa.Table, looks: Sequence[roles.Looks], key: list[str], made: Proposal) -> None:
    """A row of a nested log is a request: a column is added where the key does not tell rows apart."""
    if not set(key) <= set(table.column_names):
        return

    def rows(columns: list[str]) -> int:
        return int(table.select(columns).group_by(columns).aggregate([]).num_rows)

    if rows(key) == table.num_rows:
        return
    steps = sorted(
        (x for x in looks if x.name not in key), key=lambda x: (roles.plain(x.name) not in roles.STEP, not x.time)
    )
    further = next((x.name for x in steps if rows([*key, x.name]) == table.num_rows), None)
    if further is not None:
        made.values["request"] = [*key[1:], further]
        made.because("request", f"{further}: tells rows of one {key[-1]} apart")
        made.unsure["request"] = f"{' and '.join(key[1:])} did not tell rows apart: {further} was added to the request"
