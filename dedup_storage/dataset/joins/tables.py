"""Joins of a dataset's own tables, at one version."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.choices import choice
from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.joins.bucket import Exchange, bucket_join
from dedup_storage.dataset.joins.explain import explain_join
from dedup_storage.dataset.joins.explanation import JoinExplanation
from dedup_storage.dataset.joins.inputs import How, as_frame, field_of
from dedup_storage.errors import InputError, UsageError, known_names
from dedup_storage.schema import check_name
from dedup_storage.spark.errors import translated

__all__ = ["JoinSummary", "explain_tables", "join_tables", "table_frame", "write_join"]


class JoinSummary(BaseModel):
    """What a written join holds.

    Attributes:
        left, right: What was joined.
        how: ``inner``, ``left``, ``semi`` or ``anti``.
        output: Where the rows are.
        rows: How many.
        seconds: Wall time of joining and writing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    left: str
    right: str
    how: str
    output: str
    rows: int
    seconds: float


def table_frame(
    handle: Handle, table: str, version: int | None = None, columns: Sequence[str] | None = None
) -> DataFrame:
    """Rows of one table of a dataset with its keys and event date, in the source's types.

    Args:
        handle: The dataset.
        table: ``requests``, ``impressions``, ``logs``, a feature group's table; or any other table of any catalog, by
            its full name, of which the newest snapshot is read.
        version: Version of the dataset; the newest by default.
        columns: Columns wanted; the table's request keys and event date come along.

    Raises:
        UsageError: no such table or column.
    """
    keys = tuple(c for c in (*handle.spec.request_key, handle.spec.event_date_column) if c)
    if "." in table:
        df = as_frame(table, handle.spark)
    else:
        with translated():
            cut = handle.cut(version)
            if table not in cut.snapshots:
                raise UsageError(
                    f"the dataset {handle.name} has no table {table}", expected=known_names(table, cut.snapshots)
                )
            df = cut.rows(table)
            if table == cut.spec.anchor.name:
                df = df.drop(*cut.spec.runs_columns)
            events = cut.spec.event_group(table)
            types = cut.spec.types if events is None else events.types(cut.spec.types, cut.spec.schema_.user)
            # Iceberg has no 8- and 16-bit integers. A cast would hide a bucket, so equal types stay untouched.
            stored = dict(df.dtypes)
            df = df.select(*(F.col(c).cast(types[c]) if types.get(c, stored[c]) != stored[c] else c for c in stored))
    if columns is None:
        return df
    for column in columns:
        field_of(df, column, table)
    return df.select(*dict.fromkeys((*(k for k in keys if k in df.columns), *columns)))


def join_tables(
    handle: Handle,
    left: str = "impressions",
    right: str = "requests",
    on: Sequence[str] | None = None,
    how: How | str = How.INNER,
    *,
    version: int | None = None,
    columns: Sequence[str] | None = None,
    exchange: Exchange | str = Exchange.REFUSE,
    hash_side: str | None = None,
) -> DataFrame:
    """Two tables of a dataset joined inside their buckets.

    Args:
        handle: The dataset.
        left, right: Its tables (see ``table_frame``).
        on: Key columns; all that both have by default: the request's keys and event date, and the position where both
            are impression-grain.
        how: As for ``bucket_join``.
        version: Version of the dataset; the newest by default.
        columns: Columns wanted beside the keys; all by default. What is not asked for is not read.
        exchange, hash_side: As for ``bucket_join``. Lists of layout ``user`` are there where rows may move (``warn``).

    Raises:
        ShuffleRefusedError: rows would move.
        UsageError: no such table or column.
    """
    moves = choice(Exchange, exchange, "exchange") is Exchange.WARN
    first, second = _sides(handle, left, right, version=version, columns=columns, moves=moves)
    return bucket_join(first, second, on, how, exchange=exchange, hash_side=hash_side)


def explain_tables(
    handle: Handle,
    *tables: str,
    on: Sequence[str] | None = None,
    how: How | str = How.INNER,
    version: int | None = None,
    columns: Sequence[str] | None = None,
) -> JoinExplanation:
    """Explain what ``join_tables`` does with the same arguments.

    Args:
        handle: The dataset.
        tables: Left and right; impressions and requests when left out.
        on, how, version, columns: As there.
    """
    first, second = _sides(handle, *tables, version=version, columns=columns)
    return explain_join(first, second, on, how)


def _sides(
    handle: Handle,
    left: str = "impressions",
    right: str = "requests",
    *,
    version: int | None,
    columns: Sequence[str] | None,
    moves: bool = False,
) -> tuple[DataFrame, DataFrame]:
    if handle.spec.events and not moves:
        _refuse_lists(handle, (left, right), columns)
    first, second = table_frame(handle, left, version), table_frame(handle, right, version)
    if columns is None:
        return first, second
    present = (*first.columns, *second.columns)
    for column in columns:
        if column not in present:
            raise UsageError(f"neither {left} nor {right} has a column {column}", expected=known_names(column, present))
    shared = [c for c in first.columns if c in second.columns]
    from_first = dict.fromkeys((*shared, *(c for c in columns if c in first.columns)))
    from_second = dict.fromkeys((*shared, *(c for c in columns if c in second.columns)))
    return first.select(*from_first), second.select(*from_second)


def _refuse_lists(handle: Handle, tables: Sequence[str], columns: Sequence[str] | None) -> None:
    """Refuse to join history lists of layout ``user``: making them moves rows.

    Raises:
        UsageError: they are asked for.
    """
    spec = handle.spec
    lists = [c for group in spec.events for c in group.columns]
    asked = lists if columns is None else [c for c in lists if c in columns]
    if spec.anchor.name in tables and asked:
        raise UsageError(
            f"the history lists of {spec.name} are made of users' lists (layout user), so that a join inside buckets "
            "cannot have them",
            expected="columns other than " + ", ".join(lists),
            got="all columns" if columns is None else ", ".join(asked),
            fix="Name the columns wanted beside the keys, or let rows move (exchange warn).",
        )


def write_join(df: DataFrame, *, left: str, right: str, how: str, output: str | None, table: str | None) -> JoinSummary:
    """Write a join's rows as Parquet files, or into a new table.

    Args:
        df: The rows.
        left, right, how: What they are, for the summary.
        output: Directory for Parquet files, local or remote; must not exist.
        table: Full name of a table to create; exactly one of the two is given.

    Raises:
        InputError: the directory or the table is there already.
    """
    if (output is None) == (table is None):
        raise UsageError(
            "it is not clear where the rows go", expected="a directory or a table", fix="Give one of them."
        )
    began = time.monotonic()
    with translated():
        if table is not None:
            parts = table.split(".")
            if len(parts) < 3:
                raise UsageError(f"the table {table[:200]} is not fully named", expected="catalog.namespace.table")
            for part in parts:
                check_name(part, "table name")
            if df.sparkSession.catalog.tableExists(table):
                raise InputError(f"the table {table} exists already", fix="Choose another name, or drop it first.")
            df.writeTo(table).using("iceberg").create()
            rows = df.sparkSession.table(table).count()
        else:
            df.write.mode("errorifexists").parquet(str(output))
            rows = df.sparkSession.read.parquet(str(output)).count()
    return JoinSummary(
        left=left, right=right, how=how, output=str(table or output), rows=rows, seconds=time.monotonic() - began
    )
