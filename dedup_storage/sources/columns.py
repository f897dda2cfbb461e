"""The columns of a source: what is known of them before, their types, those that stand in paths. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.errors import InputError
from dedup_storage.report.parquet.footers import DataFile, Resolve
from dedup_storage.report.parquet.one_schema import constant, joined, open_parquet
from dedup_storage.sources.address import Kind
from dedup_storage.sources.declared import word_of
from dedup_storage.sources.unsigned import UNSIGNED

__all__ = ["Told", "Wanted", "refuse_empty_types", "with_partitions", "with_types"]

# What a path tells: column -> text, or no value.
Told = Mapping[str, str | None]
# Numbers that only some engines read, and those that are not in their plain form.
_ODD = re.compile(r"\+|[+-]?0[xX]|-0+$")
_PADDED = re.compile(r"\+|[+-]?0[0-9xX]|-0$")
# Iceberg has no such types, and a key has one type in both formats.
_SHORT = (pa.int8(), pa.int16())


@dataclass(frozen=True)
class Wanted:
    """What is known of a source's columns before it is opened.

    Attributes:
        needed: Columns that every row must have.
        texts: Columns whose texts stay texts: the keys.
        whole: Keys: 64-bit integers where unsigned ones of 64 bits fit, 32-bit ones where they are shorter.
        wide: Those of ``whole`` that are kept as ``decimal(20,0)`` where unsigned ones do not fit.
        times: Columns of times, whose texts and numbers are read as times later.
        types: Column -> type, of what is declared or of the dataset that the rows go into.
        header: Columns of CSV and TSV files that have no header.
    """

    needed: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    header: tuple[str, ...] = ()


def with_types(schema: pa.Schema, known: Wanted) -> pa.Schema:
    """The schema with the types that are wanted, where that changes no value by its kind."""
    fields = []
    for item in schema:
        wanted, kind = known.types.get(item.name), item.type
        if wanted is not None and joined(wanted, kind) == wanted:
            kind = wanted
        elif wanted is not None and pa.types.is_timestamp(wanted) and pa.types.is_timestamp(kind):
            # A naive time is UTC.
            kind = wanted
        elif wanted == UNSIGNED and pa.types.is_integer(kind):
            kind = wanted
        elif item.name in known.whole and kind == UNSIGNED:
            kind = pa.int64()
        elif item.name in known.whole and kind in _SHORT:
            kind = pa.int32()
        fields.append(pa.field(item.name, kind))
    return pa.schema(fields)


def refuse_empty_types(schema: pa.Schema, source: str, kind: Kind | None = None) -> None:
    """Refuse columns that have no type, or have something without one inside.

    Raises:
        InputError: names the first one.
    """
    for item in schema:
        if _lacks_a_type(item.type):
            texts = kind in (Kind.JSON, Kind.CSV, Kind.TSV)
            other = f"Leave {item.name} out of the log" if texts else f"Cast the column {item.name}"
            raise InputError(
                f"the column {item.name} has no value and no type in any file of {source}",
                expected="a type, even where every value is null",
                fix=f"{other}, or say its type in the schema: types: {{{item.name}: {_some_type(item.type)}}}.",
            )


def _some_type(kind: pa.DataType) -> str:
    """A type of the schema file that a column without one could have, as far as its own goes."""
    types = pa.types
    if types.is_list(kind):
        return f"array<{_some_type(kind.value_type)}>"
    if types.is_struct(kind):
        return f"struct<{','.join(f'{f.name}:{_some_type(f.type)}' for f in kind)}>"
    return "string" if types.is_null(kind) else word_of(kind) or "TYPE"


def _lacks_a_type(kind: pa.DataType) -> bool:
    """Whether a column, or something inside it, is null wherever it stands."""
    types = pa.types
    if types.is_map(kind):
        return _lacks_a_type(kind.key_type) or _lacks_a_type(kind.item_type)
    if types.is_struct(kind):
        return any(_lacks_a_type(f.type) for f in kind)
    return bool(types.is_null(kind)) or (bool(types.is_list(kind)) and _lacks_a_type(kind.value_type))


def with_partitions(
    files: Sequence[DataFile],
    schema: pa.Schema,
    known: Wanted,
    resolve: Resolve,
    origins: Mapping[str, str],
    told: Mapping[str, Told],
) -> pa.Schema:
    """The schema with the columns that stand in paths alone, as texts; those that stand in both must agree.

    A column that no path gives a value has the type that is declared for it, or none.

    Args:
        files: The files.
        schema: Of the columns inside them.
        known: Types of columns.
        resolve: Finds the file system of a file.
        origins: File -> the file that its rows were made of, to be named.
        told: File -> what its path tells.

    Raises:
        InputError: a value in a file is not the one in its path, or one in a path is none of its column's type.
    """
    keys = dict.fromkeys(key for values in told.values() for key in values)
    for key in keys:
        if key in schema.names:
            _refuse_disagreement(key, files, resolve, origins, told)
        else:
            there = any(values.get(key) is not None for values in told.values())
            schema = schema.append(pa.field(key, known.types.get(key, pa.string() if there else pa.null())))
        _refuse_values(key, schema.field(key).type, origins, told, known)
    return schema


def _refuse_values(
    key: str, kind: pa.DataType, origins: Mapping[str, str], told: Mapping[str, Told], known: Wanted
) -> None:
    """Refuse texts of paths that are no values of a type; of a key also 007, which would become one with 7."""
    if pa.types.is_string(kind):
        return
    seen = set[str]()
    for path, values in told.items():
        text = values.get(key)
        if text is None or text in seen:
            continue
        seen.add(text)
        odd = _PADDED if key in (*known.whole, *known.texts) else _ODD
        if (_is_whole(kind) and odd.match(text)) or not _is_value(text, kind):
            raise InputError(
                f"the path of {origins.get(path, path)} tells {key}={text}, which is no value of its type",
                expected=f"{kind} in its plain form, of a key without leading zeros",
                fix=f"Correct the path, or keep {key} a text.",
            )


def _is_whole(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def _is_value(text: str, kind: pa.DataType) -> bool:
    try:
        constant(text, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _refuse_disagreement(
    key: str,
    files: Sequence[DataFile],
    resolve: Resolve,
    origins: Mapping[str, str],
    told: Mapping[str, Told],
) -> None:
    for file in files:
        if key not in told[file.path]:
            continue
        asked = told[file.path][key]
        filesystem, inner = resolve(file.path)
        with filesystem.open_input_file(inner) as stream:
            parquet = open_parquet(stream)
            if key not in parquet.schema_arrow.names:
                continue
            values = pc.unique(parquet.read(columns=[key])[key])
        found = [None if v is None else str(v) for v in values.to_pylist()]
        if any(v != asked for v in found):
            raise InputError(
                f"the column {key} differs from the path of {origins.get(file.path, file.path)}",
                expected=f"{key}={asked} in every row" if asked is not None else f"no value of {key} in any row",
                got=f"{len(found)} values in the file",
                fix="Correct the path, or rename the column in the file or in the path.",
            )
