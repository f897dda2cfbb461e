"""Small inputs of jobs named on the command line: a table or files, and a function by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from dedup_storage.errors import InputError, UnknownColumnError, UsageError
from dedup_storage.spark.rows import only_row

__all__ = ["named_function", "read_frame", "read_ids", "typed_users"]

_READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def read_frame(spark: SparkSession, source: str) -> DataFrame:
    """A table by name, or Parquet, JSON or CSV (with a header) files by path.

    A path has a slash, or is there; everything else is a table's name.
    """
    if "/" not in source and not Path(source).exists():
        return spark.read.table(source)
    kind = _READERS.get(Path(source).suffix, "parquet")
    reader = spark.read.option("header", "true") if kind == "csv" else spark.read
    place = source if "://" in source else str(Path(source).resolve())
    return reader.format(kind).load(place)


def read_ids(path: Path) -> list[str]:
    """User ids, one a line; empty lines are left out.

    Raises:
        InputError: the file cannot be read, or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list of users {path} cannot be read: {type(error).__name__}") from None
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise InputError(f"the list of users {path} is empty", expected="one user id a line")
    return ids


def named_function(name: str) -> Callable[..., Any]:
    """A function by ``module:name``.

    Raises:
        UsageError: there is no such module or function.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"the function {name} cannot be loaded: {type(error).__name__}",
            expected="module:function, the module importable from here",
        ) from None
    if not callable(found):
        raise UsageError(f"{name} is no function", got=type(found).__name__)
    return found


def typed_users(users: DataFrame, user: str, kind: DataType) -> DataFrame:
    """Distinct user ids in the type they are stored in, in the column ``user``.

    Args:
        users: The user column, or one column of any name.
        user: Name of the user column.
        kind: Its type.

    Raises:
        UnknownColumnError: several columns, and none is the user column.
        InputError: some are no ids of that type; tells how many, and none of them.
    """
    if user not in users.columns and len(users.columns) != 1:
        raise UnknownColumnError(
            f"the table of users lacks the column {user}", expected=user, got=", ".join(users.columns)
        )
    given = F.col(user if user in users.columns else users.columns[0])
    typed = users.filter(given.isNotNull()).select(given.try_cast(kind).alias(user))
    wrong = int(only_row(typed.agg(F.count_if(F.col(user).isNull()).alias("n")))["n"])
    if wrong:
        raise InputError(f"{wrong} of the users given are no ids", expected=f"values of type {kind.simpleString()}")
    return typed.distinct()
