"""What a feature group is computed by: SQL expressions, a function of frames, a lookup in a table, or a frame."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, IntegralType

from dedup_storage.dataset.features.inputs import Inputs
from dedup_storage.errors import SchemaError, UsageError
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.groups import FeatureGroup, FeatureSource, SourceKind
from dedup_storage.lake.requests import short_digest
from dedup_storage.lake.sql import quoted
from dedup_storage.schema import check_name
from dedup_storage.spark.digests import function_digest, rows_digest
from dedup_storage.spark.types import compared_as_they_are

__all__ = ["FeatureFunction", "Lookup", "Recipe", "Source", "import_function"]

FeatureFunction = Callable[..., DataFrame]
_WORD = re.compile(r"\w+")
# Every refresh keeps it once more in the metadata of the table.
_TEXT_LIMIT = 4_000
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Lookup:
    """Columns looked up in a table of the same catalog that has one row per key.

    Attributes:
        table: ``namespace.table``.
        on: Column of the dataset -> column of the table.
        columns: Column of the group -> column of the table.
    """

    table: str
    on: Mapping[str, str]
    columns: Mapping[str, str]


# What a group can be computed by: column -> SQL expression, a lookup, a function of frames, a frame, a stored source.
Source = Mapping[str, str] | Lookup | FeatureFunction | DataFrame | FeatureSource


@dataclass(frozen=True)
class Recipe:
    """A source and what cannot be written down of it.

    Attributes:
        source: What the definition keeps.
        function: The function, for ``function``.
        rows: The frame, for ``frame``.
    """

    source: FeatureSource
    function: FeatureFunction | None = None
    rows: DataFrame | None = None

    @classmethod
    def of(cls, source: Source) -> Recipe:
        """The recipe of an argument of ``Dataset.features.add``.

        Args:
            source: Mapping of column to SQL expression; ``Lookup``; DataFrame with the keys and the columns; or a
                function of the grain's frame, or of (requests, impressions), that gives such a frame.

        Raises:
            UsageError: it is none of these.
        """
        if isinstance(source, FeatureSource):
            return cls.stored(source)
        if isinstance(source, Mapping) and source:
            texts = {check_name(c, "column name"): _expression(c, text) for c, text in source.items()}
            return cls(FeatureSource(kind=SourceKind.EXPRESSION, expressions=texts))
        if isinstance(source, Lookup):
            return cls(_lookup(source))
        if isinstance(source, DataFrame):
            return cls(FeatureSource(kind=SourceKind.FRAME), rows=source)
        if callable(source):
            return cls(
                FeatureSource(kind=SourceKind.FUNCTION, function=_reference(source), text=_text(source)),
                function=source,
            )
        raise UsageError(
            "a feature group cannot be computed from this source",
            expected="column -> SQL expression, a Lookup, a function of frames, or a DataFrame",
            got=type(source).__name__,
        )

    @classmethod
    def stored(cls, source: FeatureSource) -> Recipe:
        """The recipe that a definition kept.

        Raises:
            UsageError: the definition alone does not say how to compute it.
        """
        if source.kind is SourceKind.FRAME:
            raise UsageError(
                "the feature group was computed from a frame, which no definition keeps",
                fix="Hand in a frame of the new rows.",
            )
        if source.kind is not SourceKind.FUNCTION:
            return cls(source)
        if source.function is None:
            raise UsageError(
                "the function of the feature group cannot be imported by name",
                fix="Hand in the function, or define it in a module.",
            )
        return cls(source, function=import_function(source.function))

    def text(self) -> str:
        """What tells the recipe from others: of a function what it does, of a frame its rows, which are read once."""
        if self.rows is not None:
            return rows_digest(move_to(run_session(self.rows.sparkSession), self.rows))
        if self.function is not None:
            return function_digest(self.function)
        return f"{self.source.kind.value} ({short_digest(self.source.model_dump_json())})"

    def frame(self, inputs: Inputs, group: FeatureGroup | None = None) -> DataFrame:
        """The key, the event date where it has it, and the columns, for the rows that ``inputs`` holds.

        Raises:
            UsageError: the function gave no frame.
        """
        source, key = self.source, [*inputs.key, *inputs.dates]
        if self.rows is not None:
            return self.rows
        if self.function is not None:
            return _call(self.function, inputs)
        if source.kind is SourceKind.EXPRESSION:
            words = {word.lower() for text in source.expressions.values() for word in _WORD.findall(text)}
            texts = [F.expr(text).alias(column) for column, text in source.expressions.items()]
            return _rows(inputs, words).select(*key, *texts)
        return self._looked_up(inputs, key)

    def _looked_up(self, inputs: Inputs, key: list[str]) -> DataFrame:
        source = self.source
        rows = _rows(inputs, {name.lower() for name in source.on})
        table = inputs.looked_up(str(source.table), rows.sparkSession)
        wanted = {**{f"_on_{i}": column for i, column in enumerate(source.on.values())}, **source.columns}
        table = table.select(*(F.col(quoted(column)).alias(name) for name, column in wanted.items()))
        for number, (column, other) in enumerate(source.on.items()):
            # Selected, since an unknown column is told by Spark's own words.
            kind, looked_up = rows.select(column).schema[0].dataType, table.schema[f"_on_{number}"].dataType
            _require_alike(column, kind, str(source.table), other, looked_up)
        matches = [rows[column] == table[f"_on_{i}"] for i, column in enumerate(source.on)]
        return rows.join(table, matches, "left").select(*(rows[k] for k in key), *(table[c] for c in source.columns))


def _require_alike(column: str, kind: DataType, table: str, other: str, kind_of_other: DataType) -> None:
    """Check that a column of the log and one looked up in are compared as they are.

    Raises:
        SchemaError: Spark would cast one of them: 007 and 7 are one number, and doubles hold ids of 53 bits.
    """
    if not compared_as_they_are(kind, kind_of_other):
        raise SchemaError(
            f"the column {column} cannot be looked up in {other} of {table}",
            expected=f"{kind.simpleString()}" + (", or integers" if isinstance(kind, IntegralType) else ""),
            got=kind_of_other.simpleString(),
            fix="Cast the column of that table, or add the group by a function that casts.",
        )


def import_function(reference: str) -> FeatureFunction:
    """The function named by ``module:name``.

    Raises:
        UsageError: there is none of that name.
    """
    if not _REFERENCE.fullmatch(reference):
        raise UsageError("the function's name cannot be read", expected="module:name", got=repr(reference[:80]))
    module, _, name = reference.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the function {reference} cannot be imported: {type(error).__name__}",
            fix="Put its module on the PYTHONPATH.",
        ) from None
    if not callable(function):
        raise UsageError(f"{reference} is no function", got=type(function).__name__)
    return function


def _rows(inputs: Inputs, words: set[str]) -> DataFrame:
    """The grain's rows, joined with the other grain's only where one of its columns is named."""
    return inputs.wide() if words & {c.lower() for c in inputs.other_columns} else inputs.narrow()


def _call(function: FeatureFunction, inputs: Inputs) -> DataFrame:
    wanted = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    made = function(inputs.narrow()) if len(wanted) < 2 else function(inputs.requests(), inputs.impressions())
    if not isinstance(made, DataFrame):
        raise UsageError(
            f"the function {getattr(function, '__name__', 'of the group')} gave no frame",
            expected="a DataFrame with the keys and the new columns",
            got=type(made).__name__,
        )
    return made


def _expression(column: str, text: object) -> str:
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"the expression of {column} is empty", expected="an SQL expression over the log's columns")
    return text.strip()


def _lookup(lookup: Lookup) -> FeatureSource:
    parts = lookup.table.split(".")
    if len(parts) != 2 or not lookup.on or not lookup.columns:
        raise UsageError(
            "the lookup is not complete", expected="table as namespace.table, on and columns", got=lookup.table
        )
    for name in (*parts, *lookup.on, *lookup.on.values(), *lookup.columns, *lookup.columns.values()):
        check_name(name, "name in the lookup")
    return FeatureSource(kind=SourceKind.JOIN, table=lookup.table, on=dict(lookup.on), columns=dict(lookup.columns))


def _reference(function: FeatureFunction) -> str | None:
    """``module:name``, if importing it gives the same function."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not module or module == "__main__" or "." in name or "<" in name:
        return None
    imported = getattr(importlib.import_module(module), name, None)
    return f"{module}:{name}" if imported is function else None


def _text(function: FeatureFunction) -> str | None:
    try:
        return inspect.getsource(function)[:_TEXT_LIMIT]
    except (OSError, TypeError):
        return None
