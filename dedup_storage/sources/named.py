"""Small inputs of jobs named on the command line: a table or files, and a function by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, IntegerType, StringType

from dedup_storage.errors import InputError, UnknownColumnError, UsageError
from dedup_storage.keys import IdList, plain_keys
from dedup_storage.lake.engine.stores import require_file_system, session_scratch, session_store
from dedup_storage.lake.folders import Store
from dedup_storage.sources.exact import exact_cast, exact_key, is_key_type, key_kind
from dedup_storage.sources.frames import source_frame
from dedup_storage.sources.scratch import is_scratch
from dedup_storage.sources.source import Wanted, open_source
from dedup_storage.spark.rows import only_row, text_frame

__all__ = ["exact_keys", "named_function", "no_keys", "read_frame", "read_ids", "typed_users"]

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_frame(spark: SparkSession, source: str, *, keys: Sequence[str] = (), needed: Sequence[str] = ()) -> DataFrame:
    """Rows of a table by name, or of files or a table's folder by path, as every command reads them.

    Args:
        spark: The session.
        source: The table or the files.
        keys: Columns whose texts stay texts, however much they look like numbers.
        needed: Columns that the header of a CSV file must name: a first row that names none may be values.

    Raises:
        ConfigError: the session runs on a cluster, and rows that are no plain Parquet have no folder.
        InputError: there is nothing, or it cannot be read.
    """
    require_file_system(spark, source)
    wanted = Wanted(needed=tuple(needed), texts=tuple(keys))
    folder = session_scratch(spark, source)
    return source_frame(spark, open_source(source, wanted=wanted, scratch=folder, store=session_store(spark)))


def read_ids(path: str | Path, store: Store | None = None) -> IdList:
    """User ids, one a line, each as it stands there, blanks included, with their lines; empty lines are left out.

    Args:
        path: The file, also an address.
        store: Opens it; by default as this machine is set up.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or holds none.
    """
    try:
        place = str(path)
        filesystem, inner = (store or Store())(place if "://" in place else str(Path(place).absolute()))
        with filesystem.open_input_stream(inner) as stream:
            content = stream.read()
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
    numbered = [(number, line.removesuffix("\r")) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise InputError(f"the list of users {path} is empty", expected="one user id a line")
    return IdList([line for _, line in numbered], [number for number, _ in numbered])


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


def typed_users(
    spark: SparkSession, users: DataFrame | Iterable[int | str], user: str, kind: DataType, what: str = "users given"
) -> DataFrame:
    """Distinct user ids in the type they are stored in, in the column ``user``.

    Args:
        spark: The session.
        users: A frame with the user column, or one column of any name; or ids at hand.
        user: Name of the user column.
        kind: Its type.
        what: What they are, for messages.

    Raises:
        UnknownColumnError: several columns, and none is the user column.
        UsageError: it is no frame and no list.
        InputError: some are no ids of that type; tells how many and where, and none of them.
    """
    if not isinstance(users, DataFrame):
        return _listed_users(spark, users, user, kind, what)
    if user not in users.columns and len(users.columns) != 1:
        raise UnknownColumnError(
            f"the table of users lacks the column {user}", expected=user, got=", ".join(users.columns)
        )
    name = user if user in users.columns else users.columns[0]
    return (
        exact_keys(users.filter(F.col(name).isNotNull()), {name: kind}, what).select(F.col(name).alias(user)).distinct()
    )


def _listed_users(spark: SparkSession, users: Iterable[int | str], user: str, kind: DataType, what: str) -> DataFrame:
    if isinstance(users, (str, bytes)) or not isinstance(users, Iterable):
        raise UsageError(f"the {what} are not a list of ids", got=type(users).__name__)
    bits = 32 if isinstance(kind, IntegerType) else 64
    keys, wrong = plain_keys(users, key_kind(kind), bits)
    if wrong is not None:
        raise no_keys(what, user, kind.simpleString(), wrong)
    return text_frame(spark, user, map(str, keys)).select(F.col(user).cast(kind)).distinct()


def no_keys(what: str, column: str, kind: str, wrong: str) -> InputError:
    """The refusal of values that name no key.

    Args:
        what: What they are.
        column, kind: The key column and its type.
        wrong: How many and where, in words.
    """
    return InputError(
        f"some of the {what} are no ids: {column} is no key in its plain form in {wrong}",
        expected=f"values of type {kind}",
        fix="Correct them; floats, truth values and times are no ids, and 0042, 4e1 and 42.0 are not the key 42.",
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
    unsure = [n for n in made if exact_cast(F.lit(None), found[n], kinds[n]) is None]
    checked = {n: made[n] for n in unsure if not isinstance(kinds[n], StringType)}
    if checked:
        wrong = {n: F.col(n).isNotNull() & c.isNull() for n, c in checked.items()}
        count = F.count(F.lit(1)).alias("_rows")
        row = only_row(rows.agg(count, *(F.count_if(w).alias(n) for n, w in wrong.items())))
        for name, broken in wrong.items():
            if row[name]:
                told = f"{row[name]} of {row['_rows']}{_first_place(rows.filter(broken))}"
                raise no_keys(what, name, kinds[name].simpleString(), told)
    return rows.select(*(made[c].alias(c) if c in made else F.col(c) for c in rows.columns))


def _first_place(rows: DataFrame) -> str:
    """Where the first of some rows stands, in words; nothing where they do not come straight from files."""
    try:
        places = rows.select(F.struct("_metadata.file_path", "_metadata.row_index").alias("place"))
        first = only_row(places.agg(F.min("place").alias("place")))["place"]
    except AnalysisException:
        return ""
    # Rows that were made plain lie in a folder that nobody knows, and is gone soon.
    if first is None or is_scratch(first["file_path"]):
        return ""
    return f": row {first['row_index'] + 1} of {unquote(first['file_path'])} is the first"
