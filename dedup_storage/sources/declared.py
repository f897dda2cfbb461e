"""Types that a schema or a dataset states in Spark's words, as Arrow's, without Spark. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import pyarrow as pa

from dedup_storage.errors import SchemaError, known_names
from dedup_storage.schema import LogSchema
from dedup_storage.sources.address import Kind
from dedup_storage.sources.remedies import change_of

__all__ = ["declared_types", "refuse_other_types", "refuse_unkept", "word_of"]

# Types whose lengths no table here keeps: a longer text would pass, a shorter one would not be filled up.
_LENGTHS = ("char", "varchar")
_SIMPLE: dict[str, pa.DataType] = {
    **dict.fromkeys(("tinyint", "byte"), pa.int8()), **dict.fromkeys(("smallint", "short"), pa.int16()),
    **dict.fromkeys(("int", "integer"), pa.int32()), **dict.fromkeys(("bigint", "long"), pa.int64()),
    **dict.fromkeys(("float", "real"), pa.float32()), "double": pa.float64(), "boolean": pa.bool_(),
    **dict.fromkeys(("string", *_LENGTHS), pa.string()), "binary": pa.binary(), "date": pa.date32(),
    **dict.fromkeys(("timestamp", "timestamp_ltz"), pa.timestamp("us", "UTC")), "timestamp_ntz": pa.timestamp("us"),
}  # fmt: skip
_DECIMALS = ("decimal", "dec", "numeric")
# Types of Spark that Arrow has nothing for: nothing can be asked of a file in their place.
_OTHERS = ("variant", "interval", "void", "geometry", "geography")
_TOKEN = re.compile(r"\s*(`(?:[^`]|``)*`|\w+|[<>(),:])")


def word_of(kind: pa.DataType) -> str | None:
    """Spark's word for a plain type of Arrow, the first of those that it reads; ``None`` where there is none."""
    return next((word for word, known in _SIMPLE.items() if known == kind), None)


def declared_types(types: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Column -> Arrow's type; columns whose type Arrow does not have are left out.

    Args:
        types: Column -> Spark DDL type.

    Raises:
        SchemaError: a text is no type.
    """
    found = {column: _read(column, text)[0] for column, text in types.items()}
    return {column: kind for column, kind in found.items() if kind is not None}


def refuse_unkept(types: Mapping[str, str]) -> None:
    """Refuse types that Spark reads, and that no column of files or of a dataset keeps as they are.

    Args:
        types: Column -> Spark DDL type, as a schema file says.

    Raises:
        SchemaError: a text is no type, or names such a type, also inside a list, map or struct; names it.
    """
    for column, text in types.items():
        for name in _read(column, text)[1]:
            length = name in _LENGTHS
            raise SchemaError(
                f"types says {text} of the column {column}, and {name} is no type that is kept as it is",
                expected="string, whose texts have any length" if length else "a type such as bigint, double or string",
                got=text,
                fix=f"Write string for {name} in types of the schema file."
                if length
                else f"Leave {column} out of types in the schema file, or cast it where the log is made.",
            )


def _read(column: str, text: str) -> tuple[pa.DataType | None, tuple[str, ...]]:
    """Arrow's type of a text, and the names in it of types that are not kept."""
    words = None
    try:
        words = _Words(text)
        return words.whole(), tuple(words.unkept)
    except ValueError:
        # Of such a type the name is told, whatever stands behind it.
        if words is not None and words.unkept:
            return None, tuple(words.unkept)
        raise SchemaError(
            f"the type of the column {column} is not known",
            expected="a Spark type such as bigint, decimal(10,2) or array<string>",
            got=text,
            fix="Correct types in the schema file.",
        ) from None


class _Words:
    """A type's text, word by word.

    Raises:
        ValueError: it is no type.
    """

    def __init__(self, text: str) -> None:
        self.unkept: list[str] = []
        self._words: list[str] = []
        place, text = 0, text.rstrip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise ValueError(text)
            self._words.append(match[1])
            place = match.end()

    def whole(self) -> pa.DataType | None:
        kind = self._kind()
        if self._words:
            raise ValueError(self._words[0])
        return kind

    def _take(self, expected: str | None = None) -> str:
        if not self._words or (expected is not None and self._words[0] != expected):
            raise ValueError(expected)
        return self._words.pop(0)

    def _next(self, word: str) -> bool:
        if self._words[:1] != [word]:
            return False
        self._words.pop(0)
        return True

    def _kind(self) -> pa.DataType | None:
        name = self._take().lower()
        if name == "array":
            self._take("<")
            element = self._kind()
            self._take(">")
            return None if element is None else pa.list_(pa.field("element", element))
        if name == "map":
            self._take("<")
            key = self._kind()
            self._take(",")
            item = self._kind()
            self._take(">")
            return None if key is None or item is None else pa.map_(key, item)
        if name == "struct":
            return self._struct()
        if name in (*_OTHERS, *_LENGTHS):
            self.unkept.append(name)
        numbers = self._numbers()
        if name in _DECIMALS and len(numbers) < 3 and numbers == sorted(numbers, reverse=True):
            return pa.decimal128(*(numbers or (10, 0)))
        if name in _SIMPLE and (not numbers or name in _LENGTHS):
            return _SIMPLE[name]
        if name in _OTHERS:
            while self._words and self._words[0] not in (">", ","):
                self._words.pop(0)
            return None
        raise ValueError(name)

    def _numbers(self) -> list[int]:
        found = []
        if self._next("("):
            found.append(int(self._take()))
            while self._next(","):
                found.append(int(self._take()))
            self._take(")")
        return found

    def _struct(self) -> pa.DataType | None:
        self._take("<")
        fields: list[tuple[str, pa.DataType | None]] = []
        while not self._next(">"):
            if fields:
                self._take(",")
            name = self._take()
            self._next(":")
            name = name[1:-1].replace("``", "`") if name.startswith("`") else name
            fields.append((name, self._kind()))
        return None if any(kind is None for _, kind in fields) else pa.struct(fields)


def refuse_other_types(
    schema: LogSchema,
    lying: Mapping[str, pa.DataType],
    standard: Collection[str],
    source: str,
    kind: Kind | None = None,
) -> None:
    """Refuse types of columns that a log does not have, or has in a type that cannot be made the one stated.

    Args:
        schema: The log's meaning.
        lying: Column -> type of the log as it lies, in the types stated where that changes no value.
        standard: Its columns once forms are applied.
        source: The log, for messages.
        kind: How it is written, for the remedy.

    Raises:
        SchemaError: names the column, both types and the remedy.
    """
    inner = {f.name: f.type for column in schema.candidates for f in _fields(lying.get(column))}
    # Times are read from whatever tells them.
    times = {schema.event_time, *(s.column for s in schema.sequences if s.times)}
    here = {**inner, **lying}
    known = declared_types(schema.types)
    for column in (c for c in schema.types if c not in known and c in here):
        raise SchemaError(
            f"types says {schema.types[column]} of the column {column}, which no column of files has",
            expected=f"a type that {here[column]} can be made, or none",
            got=f"{here[column]} in {source}",
            fix=f"Leave {column} out of types in the schema file.",
        )
    for column, stated in known.items():
        found = here.get(column)
        if found is None and column not in standard:
            raise SchemaError(
                f"types names the column {column}, which is not in {source}",
                expected=known_names(column, here),
                fix="Correct the name in the schema file, or leave it out.",
            )
        if found is not None and column not in times and not found.equals(stated):
            raise SchemaError(
                f"types says {schema.types[column]} of the column {column}, which cannot be made that without "
                "changing values by their kind",
                expected=str(stated),
                got=f"{found} in {source}",
                fix=f"{change_of(kind, column, stated, found)}, or correct types in the schema file.",
            )


def _fields(kind: pa.DataType | None) -> list[pa.Field]:
    if kind is None or not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return []
    return list(kind.value_type)
