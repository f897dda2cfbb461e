"""JSON texts of a column as values of their type, by Arrow's own parser. Pure."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from dedup_storage.dedup.runs import single_chunk
from dedup_storage.sources.forms.kinds import json_text, json_type, list_of
from dedup_storage.sources.forms.refusals import bad_json

__all__ = ["json_values"]

_VALUE = "value"
_BLANK = r"[ \t\r\n]*"
# How a root begins, and what must stand in a text that ends its root and goes on with another key behind it.
_LIST, _AFTER_LIST = rf"^{_BLANK}(\[|null{_BLANK}$)", rf"\]{_BLANK},{_BLANK}\""
_OBJECT, _AFTER_OBJECT = rf"^{_BLANK}(\{{|null{_BLANK}$)", rf"\}}{_BLANK},{_BLANK}\""
# The parser takes a piece of text at once, of less than 2 GiB.
_MOST_BYTES = 256 * 1024**2


def json_values(column: str, texts: pa.Array, told: Any) -> pa.Array:
    """Texts as values; a null text and the text ``null`` are null.

    Raises:
        InputError: a text is no JSON, or not of the type told; shows one.
    """
    kind = json_type(told)
    found = _parsed(texts, kind)
    if found is None:
        # Halves, until the first text that is none is alone.
        low, high = 0, len(texts)
        while high - low > 1:
            middle = (low + high) // 2
            if _parsed(texts.slice(low, middle - low), kind) is None:
                high = middle
            else:
                low = middle
        raise bad_json(column, json_text(told)).error(texts[low].as_py())
    return found


def _parsed(texts: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """The values, or nothing where any text is none."""
    if texts.nbytes > _MOST_BYTES and len(texts) > 1:
        half = len(texts) // 2
        parts = [_parsed(texts.slice(0, half), kind), _parsed(texts.slice(half), kind)]
        return None if any(part is None for part in parts) else pa.concat_arrays(parts)
    root, after = (_LIST, _AFTER_LIST) if pa.types.is_list(kind) else (_OBJECT, _AFTER_OBJECT)
    if not pc.all(pc.match_substring_regex(texts, root), min_count=0).as_py():
        return None
    values = _read(texts, kind, f'{{"{_VALUE}":', "}\n")
    if values is None or not _finite(values):
        return None
    # A text may end its value and go on in the object around it, where other keys are left out; it cannot do that
    # inside a list. Only texts in which a key stands behind such an end are read once more.
    doubtful = texts.filter(pc.match_substring_regex(texts, after))
    if len(doubtful) and _read(doubtful, list_of(kind), f'{{"{_VALUE}":[', "]}\n") is None:
        return None
    return values


def _read(texts: pa.Array, kind: pa.DataType, before: str, behind: str) -> pa.Array | None:
    if not len(texts):
        return pa.nulls(0, kind)
    lines = pc.binary_join_element_wise(before, pc.fill_null(texts, "null"), behind, "").cast(pa.large_string())
    # The texts of an array lie behind each other.
    joined = lines.buffers()[2]
    try:
        rows = pj.read_json(
            pa.BufferReader(joined),
            read_options=pj.ReadOptions(use_threads=False, block_size=joined.size + 1),
            parse_options=pj.ParseOptions(
                explicit_schema=pa.schema([(_VALUE, kind)]), newlines_in_values=True, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        return None
    return single_chunk(rows[_VALUE]) if rows.num_rows == len(texts) else None


def _finite(values: pa.Array) -> bool:
    """Whether no number is infinite or none at all, which JSON cannot say."""
    kind = values.type
    if pa.types.is_floating(kind):
        return bool(pc.all(pc.is_finite(values), min_count=0).as_py())
    if pa.types.is_list(kind):
        return _finite(values.flatten())
    if pa.types.is_struct(kind):
        return all(_finite(pc.struct_field(values, [i])) for i in range(kind.num_fields))
    return True
