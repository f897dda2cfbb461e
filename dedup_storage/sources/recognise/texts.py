"""Which form the texts of a column have, if they are lists. Pure Arrow; looks at some hundred texts."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from dedup_storage.errors import InputError
from dedup_storage.forms import ElementType, JsonForm, PairsForm, SplitForm
from dedup_storage.sources.forms.items import NUMBER, WHOLE, bools, split_lists, split_texts, values_of
from dedup_storage.sources.forms.json_texts import json_values

__all__ = ["TIME_PATTERNS", "text_form", "time_pattern"]

_TEXTS = 500
_SEPARATORS = (" ", "|", ",", ";", "\t", "^")
_BETWEEN = ("-", ":", "=", "_")
_BRACKETS = ("[]", "()", "{}")
_QUOTES = ("'", '"')
# Ids have a digit somewhere and nothing that prose has; what a bar separates is never prose.
_ID = r"^[A-Za-z_]{0,12}[0-9][A-Za-z0-9_.]*$"
_WORD = r"^[^\s]{1,64}$"
_ANY = r"^.{1,64}$"
# Times as texts: what they look like -> their pattern, None where it is ISO.
TIME_PATTERNS: tuple[tuple[str, str | None], ...] = (
    (r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?([zZ]|[+-][0-9:]{2,5})?)?$", None),
    (r"^[0-9]{1,2}/[0-9]{1,2}/[0-9]{4} [0-9]{1,2}:[0-9]{2}:[0-9]{2} [AP]M$", "M/d/yyyy h:mm:ss a"),
    (r"^[0-9]{4}/[0-9]{2}/[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}$", "yyyy/MM/dd HH:mm:ss"),
    (r"^[0-9]{14}$", "yyyyMMddHHmmss"),
)


def _some(column: pa.ChunkedArray) -> pa.Array:
    """Texts that are there and say something."""
    texts = pc.unique(column.slice(0, 20 * _TEXTS)).drop_null()
    return texts.filter(pc.not_equal(pc.utf8_trim_whitespace(texts), "")).slice(0, _TEXTS)


def _all(flags: pa.Array) -> bool:
    return bool(bools(flags).all())


def time_pattern(column: pa.ChunkedArray) -> tuple[bool, str | None]:
    """Whether texts are times, and in which pattern."""
    texts = _some(column)
    for looks, pattern in TIME_PATTERNS if len(texts) else ():
        if _all(pc.match_substring_regex(texts, looks)):
            return True, pattern
    return False, None


def text_form(name: str, column: pa.ChunkedArray) -> JsonForm | PairsForm | SplitForm | None:
    """The form of a column of texts; ``None`` where they are plain texts."""
    texts = _some(column)
    if not len(texts) or time_pattern(column)[0]:
        return None
    told = _json(name, texts)
    if told is not None:
        return told
    for brackets in (*_BRACKETS, None):
        if brackets is None or _all(pc.and_(pc.starts_with(texts, brackets[0]), pc.ends_with(texts, brackets[1]))):
            found = _pairs(name, texts, brackets) or _split(name, texts, brackets)
            if found is not None or brackets is not None:
                return found
    return None


def _json(name: str, texts: pa.Array) -> JsonForm | None:
    if not _all(pc.match_substring_regex(texts, r"(?s)^\s*[\[{].*[\]}]\s*$")):
        return None
    lines = pc.binary_join_element_wise('{"value":', texts, "}\n", "").to_pylist()
    joined = "".join(lines).encode()
    try:
        kind = pj.read_json(
            pa.BufferReader(joined),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(joined) + 1),
            parse_options=pj.ParseOptions(newlines_in_values=True),
        ).schema.field(0).type  # fmt: skip
        form = JsonForm.model_validate({"json": _told(kind)})
        json_values(name, texts, form.json_type)
    except (pa.ArrowInvalid, InputError, ValueError):
        return None
    return form


def _told(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [_told(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _told(field.type) for field in kind}
    if pa.types.is_integer(kind):
        return "bigint"
    return "double" if pa.types.is_floating(kind) else "boolean" if pa.types.is_boolean(kind) else "string"


def _pairs(name: str, texts: pa.Array, brackets: str | None) -> PairsForm | None:
    for separator in _SEPARATORS:
        items = split_texts(name, texts, SplitForm(split=separator, brackets=brackets))
        if (items.lengths > 1).sum() == 0:
            continue
        for between in _BETWEEN:
            # An item, and a number behind it; two separators in an item are no pair.
            mark = re.escape(between)
            looks = f"^[^{mark}\\s]+{mark}-?[0-9]+(\\.[0-9]+)?$"
            if between != separator and _all(pc.match_substring_regex(items.values, looks)):
                parts = pc.split_pattern(items.values, between)
                kinds = [_type(pc.list_element(parts, at)) for at in (0, 1)]
                if kinds[1] is ElementType.BIGINT and _small(pc.list_element(parts, 1)):
                    kinds[1] = ElementType.INT
                return PairsForm(
                    split=separator, pairs=between, brackets=brackets,
                    fields={"item_id": kinds[0], "label": kinds[1]},
                )  # fmt: skip
    return None


def _small(texts: pa.Array) -> bool:
    return bool(pc.max(pc.utf8_length(texts)).as_py() < 9)


def _type(items: pa.Array) -> ElementType:
    """The narrowest type that every item has in its plain form."""
    for kind, looks in ((ElementType.BIGINT, WHOLE), (ElementType.DOUBLE, NUMBER)):
        if _all(pc.match_substring_regex(items, looks)) and not values_of(items, kind)[1].any():
            return kind
    return ElementType.STRING


def _split(name: str, texts: pa.Array, brackets: str | None) -> SplitForm | None:
    best: tuple[float, SplitForm] | None = None
    for separator in _SEPARATORS:
        items = split_texts(name, texts, SplitForm(split=separator, brackets=brackets))
        share = float((items.lengths > 1).mean())
        # Where brackets tell that it is a list, the rarest separator will do.
        if not share or (brackets is None and share < 0.5):
            continue
        form = _items_form(name, texts, separator, brackets)
        if form is not None and (best is None or share > best[0]):
            best = (share, form)
    if best is None and brackets == "[]":
        return _items_form(name, texts, ",", brackets)
    return None if best is None else best[1]


def _spaced(texts: pa.Array, separator: str) -> bool:
    """Whether a blank follows a separator, as in prose."""
    return bool(bools(pc.match_substring(texts, f"{separator} ")).any())


def _items_form(name: str, texts: pa.Array, separator: str, brackets: str | None) -> SplitForm | None:
    for quote in (*_QUOTES, None):
        form = SplitForm(split=separator, brackets=brackets, quote=quote)
        try:
            items = split_lists(name, texts, form).values
        except InputError:
            continue
        if quote is not None:
            return form if len(items) else None
        looks = _ID if separator == " " and brackets is None else _ANY if separator == "|" else _WORD
        kind = _type(items)
        if kind is ElementType.STRING and brackets is None and separator in (",", ";") and _spaced(texts, separator):
            return None
        if kind is ElementType.STRING and not _all(pc.match_substring_regex(items, looks)):
            return None
        return SplitForm(split=separator, brackets=brackets, type=kind)
    return None
