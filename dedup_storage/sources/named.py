"""Small inputs of jobs named on the command line: a table or files, and a function by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StringType

from dedup_storage.errors import InputError, UnknownColumnError, UsageError
from dedup_storage.sources.exact import exact_key, is_key_type
from dedup_storage.sources.frames import source_frame
from dedup_storage.sources.source import open_source
from dedup_storage.spark.rows import only_row

__all__ = ["exact_keys", "named_function", "read_frame", "read_ids", "typed_users"]

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_frame(spark: SparkSession, source: str) -> DataFrame:
    """Rows of a table by name, or of files or a table's folder by path, as every command reads them.

    Raises:
        InputError: there is nothing, or it cannot be read.
    """
    return source_frame(spark, open_source(source))


def read_ids(path: Path) -> list[str]:
    """User ids, one a line, each as it stands there, blanks included; empty lines are left out.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or holds none.
    """
    try:
        content = path.read_bytes()
        if content.startswith(_UTF16):
            raise InputError(
                f"the list of users {path} is not written in UTF-8", expected="UTF-8", got="UTF-16",
                fix="Convert it, for example with iconv -f utf-16 -t utf-8.",
            )  # fmt: skip
        # A mark of byte order is no part of the first id.
        lines = content.decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the list of users {path} cannot be read: {type(error).__name__}") from None
    ids = [line.removesuffix("\r") for line in lines]
    ids = [line for line in ids if line.strip()]
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
    name = user if user in users.columns else users.columns[0]
    return (
        exact_keys(users.filter(F.col(name).isNotNull()), {name: kind}, "users given")
        .select(F.col(name).alias(user))
        .distinct()
    )


def exact_keys(rows: DataFrame, kinds: Mapping[str, DataType], what: str) -> DataFrame:
    """Rows with their key columns in the types in which keys are stored.

    Args:
        rows: Rows; a null key stays null.
        kinds: Key column -> stored type.
        what: What the rows are, for messages.

    Raises:
        InputError: a key column's type does not tell keys apart, or values are no keys of the stored type; says how
            many, and none of them.
    """
    found = {f.name: f.dataType for f in rows.schema.fields if f.name in kinds}
    for name, kind in found.items():
        if not is_key_type(kind, kinds[name]):
            raise InputError(
                f"the column {name} of the {what} cannot name keys",
                expected=f"{kinds[name].simpleString()}, or a text of it",
                got=f"{kind.simpleString()}, of which one value may stand for several keys",
                fix=f"Write {name} as {kinds[name].simpleString()} or as a text; pandas makes integers floats where"
                " one is missing.",
            )
    made = {name: exact_key(F.col(name), kind, kinds[name]) for name, kind in found.items()}
    checked = {n: c for n, c in made.items() if found[n] != kinds[n] and not isinstance(kinds[n], StringType)}
    if checked:
        wrong = [F.count_if(F.col(n).isNotNull() & c.isNull()).alias(n) for n, c in checked.items()]
        row = only_row(rows.agg(*wrong))
        for name in checked:
            if row[name]:
                raise InputError(
                    f"{row[name]} of the {what} are no ids: {name} is no key in its plain form",
                    expected=f"values of type {kinds[name].simpleString()}",
                    fix="Correct them; 0042, 4e1 and 42.0 are not the key 42.",
                )
    return rows.select(*(made[c].alias(c) if c in made else F.col(c) for c in rows.columns))
