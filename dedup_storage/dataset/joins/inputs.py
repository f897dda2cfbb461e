"""What a join is asked for, checked before any plan is made."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from dedup_storage.errors import SchemaError, UnknownColumnError, UsageError, known_names
from dedup_storage.schema import check_name
from dedup_storage.spark.errors import translated
from dedup_storage.spark.types import compared_as_they_are

__all__ = ["How", "as_frame", "field_of", "join_keys", "joined", "refuse_shared", "same_type"]


class How(StrEnum):
    """Which rows a join keeps: ``semi`` and ``anti`` give the left side's rows with and without a match."""

    INNER = "inner"
    LEFT = "left"
    SEMI = "semi"
    ANTI = "anti"

    @property
    def keeps_right(self) -> bool:
        """Whether the right side's columns are part of the result."""
        return self in (How.INNER, How.LEFT)


def as_frame(side: DataFrame | str, spark: SparkSession | None = None) -> DataFrame:
    """A frame, or the table of that name (``catalog.namespace.table``).

    Raises:
        UsageError: there is no such table, or no session to look it up in.
    """
    if not isinstance(side, str):
        return side
    session = spark or SparkSession.getActiveSession()
    if session is None:
        raise UsageError(f"there is no Spark session to read {side[:200]}", fix="Give one as spark=…, or give a frame.")
    for part in side.split("."):
        check_name(part, "table name")
    with translated():
        table = session.read.table(side)
        table.schema  # noqa: B018 - looks the table up now, not at the first action
        return table


def field_of(df: DataFrame, column: str, where: str) -> T.StructField:
    """A column by its exact name.

    Raises:
        UnknownColumnError: names the nearest that there are.
    """
    fields = [f for f in df.schema.fields if f.name == column]
    if len(fields) > 1:
        raise UsageError(f"{where} has {len(fields)} columns named {column}", fix="Rename or drop all but one.")
    if not fields:
        raise UnknownColumnError(f"{where} has no column {column}", expected=known_names(column, df.columns))
    return fields[0]


def join_keys(left: DataFrame, right: DataFrame, on: Sequence[str] | str | None) -> tuple[str, ...]:
    """The join's key columns; without ``on`` the columns that both sides have.

    Raises:
        UsageError: there are none, or one is named twice.
        UnknownColumnError: a side lacks one.
        SchemaError: the sides' types of one cannot be compared.
    """
    if on is None:
        keys = tuple(c for c in left.columns if c in right.columns)
        if not keys:
            raise UsageError(
                "the two sides have no column in common",
                got=f"{', '.join(left.columns)} and {', '.join(right.columns)}"[:400],
                fix="Rename a key so that both sides have it.",
            )
    else:
        keys = (on,) if isinstance(on, str) else tuple(on)
    if not keys or len(set(keys)) != len(keys):
        raise UsageError("the join keys cannot be used", expected="one or more different columns", got=", ".join(keys))
    for key in keys:
        same_type(field_of(left, key, "the left side"), field_of(right, key, "the right side"))
    return keys


def same_type(left: T.StructField, right: T.StructField) -> None:
    """Check that two columns can be compared: the same type, or both integers.

    Raises:
        SchemaError: names both types.
    """
    if compared_as_they_are(left.dataType, right.dataType):
        return
    raise SchemaError(
        f"the columns {left.name} and {right.name} cannot be compared"
        if left.name != right.name
        else f"the two sides give {left.name} different types",
        got=f"{left.dataType.simpleString()} and {right.dataType.simpleString()}",
        fix="Cast one side, better where it is written: a cast at reading hides its buckets.",
    )


def refuse_shared(left: DataFrame, right: DataFrame, keys: Sequence[str]) -> None:
    """Check that the result would not have two columns of one name.

    Raises:
        UsageError: names them.
    """
    taken = {c.lower() for c in left.columns}
    shared = [c for c in right.columns if c not in keys and c.lower() in taken]
    if shared:
        raise UsageError(
            f"both sides have {', '.join(shared)}, which {'is' if len(shared) == 1 else 'are'} no join key",
            fix="Rename or drop on one side, or join on it too.",
        )


def joined(left: DataFrame, right: DataFrame, keys: Sequence[str], how: How, hash_side: str | None) -> DataFrame:
    """The plain join with the algorithm fixed: both sides sorted, or one side's bucket hashed in memory."""
    names = {How.SEMI: "left_semi", How.ANTI: "left_anti"}
    if hash_side == "left":
        left = left.hint("shuffle_hash")
    else:
        right = right.hint("shuffle_hash" if hash_side == "right" else "merge")
    return left.join(right, list(keys), names.get(how, how.value))
