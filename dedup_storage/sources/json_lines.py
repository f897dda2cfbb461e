"""JSON lines as Arrow tables. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.errors import InputError
from dedup_storage.lake.folders import Store
from dedup_storage.sources.opened import opened

__all__ = ["json_tables", "one_number"]

_BLOCK = 8 * 1024**2
_LINES = 10_000


def json_tables(path: str, store: Store) -> Iterator[pa.Table]:
    """Rows of a file of JSON lines; texts stay texts, whatever they look like.

    Raises:
        InputError: a line is no JSON object, or a column has values of several types; names file and line.
    """
    number = 0
    rows: list[dict[str, Any]] = []
    # ``NaN`` and ``Infinity``, which JSON does not have and some writers put there, are what they say.
    decoder = json.JSONDecoder(object_pairs_hook=_fields, parse_constant=_Said)
    with opened(path, store) as stream:
        for line in _lines(stream):
            number += 1
            if not line.strip():
                continue
            row = _object(decoder, line, number, path)
            rows.append(row)
            if len(rows) == _LINES:
                yield _table(rows, path, number)
                rows = []
    if rows:
        yield _table(rows, path, number)


class _TwiceError(ValueError):
    """An object has two fields of one name."""


class _Said(float):
    """A number that stands there as a word, not as digits that no double holds."""


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place])))
    return found


def _object(decoder: json.JSONDecoder, line: bytes, number: int, path: str) -> dict[str, Any]:
    """The object of a line.

    Raises:
        InputError: it is none, or has two fields of one name; names the line.
    """
    try:
        row = decoder.decode(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(
            f"line {number} of {path} is not written in UTF-8",
            expected="UTF-8",
            fix="Convert it, for example with iconv -f ENCODING -t utf-8.",
        ) from None
    except _TwiceError as error:
        raise InputError(
            f"the field {error} occurs twice in one object in line {number} of {path}",
            expected="every field of an object once",
            fix="Correct the file.",
        ) from None
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        # A list of all rows, or objects over several lines.
        first = line.lstrip(b"\xef\xbb\xbf").strip() if number == 1 else b""
        shape = ".[]" if first.startswith(b"[") else "." if first == b"{" else None
        raise InputError(
            f"line {number} of {path} is no JSON object",
            expected="one object a line",
            fix="Correct the file."
            if shape is None
            else f"Write each object in a line of its own, for example with: jq -c '{shape}' LOG > rows.jsonl",
        )
    return row


def one_number(kind: pa.DataType, other: pa.DataType) -> pa.DataType:
    """A type whose integers are doubles where those of another one are: JSON has one kind of number."""
    types = pa.types
    if types.is_null(kind) or (kind == pa.int64() and other == pa.float64()):
        return other
    if types.is_list(kind) and types.is_list(other):
        return pa.list_(kind.value_field.with_type(one_number(kind.value_type, other.value_type)))
    if types.is_struct(kind) and types.is_struct(other):
        there, here = {f.name: f.type for f in other}, {f.name for f in kind}
        fields = [f.with_type(one_number(f.type, there.get(f.name, f.type))) for f in kind]
        return pa.struct([*fields, *(f for f in other if f.name not in here)])
    return kind


def _has_bare_object(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return not kind.num_fields or any(_has_bare_object(f.type) for f in kind)
    return bool(pa.types.is_list(kind)) and _has_bare_object(kind.value_type)


def _holds_infinity(values: pa.Array) -> bool:
    kind = values.type
    if pa.types.is_struct(kind):
        return any(_holds_infinity(values.field(place)) for place in range(kind.num_fields))
    if pa.types.is_list(kind):
        return _holds_infinity(values.flatten())
    return bool(pa.types.is_floating(kind)) and bool(pc.any(pc.is_inf(values)).as_py())


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    kept = b""
    while block := bytes(stream.read(_BLOCK)):
        kept += block
        *whole, kept = kept.split(b"\n")
        yield from whole
    if kept:
        yield kept


def _table(rows: list[dict[str, Any]], path: str, last: int) -> pa.Table:
    columns = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        try:
            name.encode()
            columns[name] = _array(values)
        except UnicodeEncodeError:
            raise InputError(
                f"the column {ascii(name)[1:-1]} holds texts that are no Unicode in {path}, up to line {last}",
                expected="no half of a surrogate pair, such as \\ud800, by itself",
                fix="Correct the file.",
            ) from None
        except (pa.ArrowException, OverflowError):
            columns[name] = None
        kind = None if columns[name] is None else columns[name].type
        if kind is None or any(bool in set(map(type, found)) for found in _numbers(kind, values)):
            raise InputError(
                f"the column {name} has values of several types in {path}",
                expected="one type, and integers of at most 64 bits",
                got=f"several before line {last + 1}",
                fix=f"Write {name} as one type, for example as a text.",
            )
        if _holds_infinity(columns[name]) and any(
            type(v) is float and math.isinf(v) for v in chain(*_numbers(kind, values))
        ):
            raise InputError(
                f"the column {name} holds a number beyond every double in {path}, up to line {last}",
                expected="numbers below 1.8e308",
                fix=f"Write {name} as a text, or correct the file.",
            )
        if _has_bare_object(kind):
            raise InputError(
                f"the column {name} holds objects without any field in {path}, up to line {last}",
                expected="a field in some object of the column",
                fix=f"Write {name} as null where it is empty, or leave it out.",
            )
    return pa.table(columns)


def _array(values: list[Any]) -> pa.Array:
    """Values as Arrow takes them; integers that only 64 bits without a sign hold are such integers."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        # Told the type, Arrow would cut fractions off.
        if not {*map(type, values)} <= {int, type(None)}:
            raise
        return pa.array(values, pa.uint64())


def _numbers(kind: pa.DataType, values: Iterable[Any]) -> Iterator[list[Any]]:
    """What stands where a type has doubles: Arrow takes a truth value beside numbers for one of them."""
    there = [v for v in values if v is not None]
    if pa.types.is_floating(kind):
        yield there
    elif pa.types.is_list(kind):
        yield from _numbers(kind.value_type, chain.from_iterable(there))
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _numbers(field.type, (v.get(field.name) for v in there))
