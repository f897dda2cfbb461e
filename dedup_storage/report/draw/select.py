"""Reading the rows of a draw of users, chosen by a hash of the user, from Parquet files on one machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup import gather_table
from dedup_storage.dedup.hashing import Hashes, combine, count_distinct, hash_column
from dedup_storage.dedup.mixing import mix64
from dedup_storage.errors import InputError, StorageError, UsageError
from dedup_storage.lake.retries import storage_trouble
from dedup_storage.report.draw.users import PLACE, LogDraw, from_flat, require_sequences, uniform
from dedup_storage.report.parquet.footers import DataFile, OnFile, Totals
from dedup_storage.report.parquet.one_schema import conform, open_parquet
from dedup_storage.report.parquet.raw_bytes import total_raw_bytes
from dedup_storage.report.parquet.tables import TableFiles
from dedup_storage.sampling.select import Selector
from dedup_storage.schema import LogSchema

__all__ = [
    "DRAW_BYTES",
    "Choice",
    "DrawEngine",
    "Drawn",
    "NoUsersError",
    "check_share",
    "choose_users",
    "chosen_rows",
    "draw_flat",
    "first_groups",
    "nested_log",
    "no_users",
    "refuse_idle_budget",
    "rows_per_request",
]

DRAW_BYTES = 512 * 1024**2
_BATCH_BYTES = 32 * 1024**2
_PROBED_FILES = 3


@dataclass(frozen=True)
class Drawn:
    """Rows of chosen users, drawn from a large table into a small one by an engine that can read it.

    Attributes:
        table: The rows, each with its ``PLACE``.
        files: Hash of a source file -> its number in order of arrival.
    """

    table: TableFiles
    files: Mapping[int, int]


class DrawEngine(Protocol):
    """Draws the rows of a share of users somewhere else; the same users in every table."""

    def rows_per_request(self, table: TableFiles, schema: LogSchema) -> float:
        """B / R of the whole table."""

    def __call__(self, table: TableFiles, user: str, share: float, columns: list[str]) -> Drawn:
        """The rows of a share of the users.

        Raises:
            InputError: the share holds no user.
        """


@dataclass(frozen=True)
class Choice:
    """Users below a threshold of the hash, or those of a named sample; in some buckets only where users lie so.

    Attributes:
        share: Share of the users of these buckets.
        buckets: Buckets, as partitions name them; ``None`` for all.
        named: Tells a sample's users.
    """

    share: float
    buckets: frozenset[str] | None = None
    named: Selector | None = None

    def keep(self, users: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Which rows are of its users. (n,) users -> (n,) bool."""
        return choose_users(hash_column(users), self.share) if self.named is None else self.named.keep(users)

    def files(self, table: TableFiles) -> Sequence[DataFile]:
        """The files of a table that may hold them."""
        if self.buckets is None:
            return table.files
        return [f for f in table.files if f.partition.get("bucket") in self.buckets]


def choose_users(users: Hashes, share: float) -> npt.NDArray[np.bool_]:
    """Which users a share takes: always the same ones, and those of a smaller share are among them."""
    if share >= 1:
        return np.ones(len(users), dtype=bool)
    return mix64(users) < np.uint64(int(share * 2.0**64))


def refuse_idle_budget(share: float | None, budget_bytes: int, *, named: bool = False) -> None:
    """Refuse a size of the draw where something else tells who is drawn.

    Args:
        share: Share of the users.
        budget_bytes: Raw bytes of the draw; the default was not asked for.
        named: Whether a sample names the users.

    Raises:
        UsageError: names the two.
    """
    if budget_bytes != DRAW_BYTES and (share is not None or named):
        told = "a named sample" if named else "a share of the users"
        raise UsageError(
            f"the size of the draw does nothing beside {told}, which tells what is read",
            got=f"{budget_bytes} bytes",
            fix="Leave out one of them.",
        )


def check_share(share: float | None, budget_bytes: int, raw_bytes: int) -> float:
    """The share of the users that is asked for, or that fits a budget.

    Raises:
        UsageError: it is out of range.
    """
    if share is None:
        return min(1.0, budget_bytes / max(1, raw_bytes))
    if not 0 < share <= 1:
        raise UsageError("the share of users is out of range", expected="more than 0 and at most 1", got=str(share))
    return share


def draw_flat(
    table: TableFiles,
    totals: Totals,
    schema: LogSchema,
    *,
    share: float | None = None,
    budget_bytes: int = DRAW_BYTES,
    on_file: OnFile | None = None,
    engine: DrawEngine | None = None,
) -> LogDraw:
    """A draw of whole users of a flat log.

    Args:
        table: The log's files; their order is taken as order of arrival.
        totals: Sums over their footers.
        schema: Meaning of the columns.
        share: Share of the users; ``None`` fits the budget.
        budget_bytes: Raw bytes of the draw's flat rows; what is held is smaller by the dedup factor.
        on_file: Called with the number of files read, for progress.
        engine: Draws the users' rows first, where there is too much to read here.

    Raises:
        SchemaError: a column is missing, or there are no sequence columns.
        InputError: the log has no rows, or the share none of its users.
        StorageError: names a file that cannot be read.
    """
    if schema.candidates:
        raise nested_log()
    if totals.rows == 0:
        raise InputError(f"the log {table.name} has no rows to measure")
    require_sequences(schema, table.columns(totals))
    share = check_share(share, budget_bytes, total_raw_bytes(totals))
    columns, choice, places = table.columns(totals), Choice(share), None
    if engine is not None and share < 1:
        drawn = engine(table, schema.user, share, columns)
        table, choice, places, columns = drawn.table, Choice(1.0), drawn.files, [*columns, *PLACE]
    rows = chosen_rows(table, choice, schema.user, columns, totals, on_file)
    try:
        return from_flat(schema, rows, share=share, files=places)
    except InputError:
        raise no_users(share) from None


def nested_log() -> UsageError:
    """What to raise where only a flat log will do."""
    return UsageError(
        "the log is nested", expected="a flat log: one row for each candidate",
        fix="Write it as a dataset and report on that.",
    )  # fmt: skip


def rows_per_request(table: TableFiles, schema: LogSchema) -> float:
    """B / R in the first row groups of some files, from the key columns alone; too small where rows are shuffled.

    Raises:
        StorageError: names a file that cannot be read.
    """
    keys, rows, requests = list(schema.request_key), 0, 0
    for group in first_groups(table, keys):
        rows += group.num_rows
        requests += count_distinct(combine([hash_column(group[k]) for k in keys]))
    return rows / max(1, requests)


def first_groups(table: TableFiles, columns: list[str]) -> Iterator[pa.Table]:
    """Some columns of the first row groups of some files, evenly spread."""
    for file in table.files[:: max(1, len(table.files) // _PROBED_FILES)][:_PROBED_FILES]:
        try:
            filesystem, path = table.resolve(file.path)
            with filesystem.open_input_file(path) as source:
                parquet = open_parquet(source)
                if not parquet.metadata.num_rows:
                    continue
                there = [c for c in columns if c in parquet.schema_arrow.names]
                group = _in_schema(parquet.read_row_group(0, columns=there), table, file, columns)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file, error) from None
        yield group


def _unreadable(file: DataFile, error: Exception) -> StorageError:
    trouble = storage_trouble(f"the data file {file.path} was read", error, attempts=1)
    if trouble is not None:
        return trouble
    return StorageError(
        f"the data file {file.path} cannot be read: {str(error).splitlines()[0]}",
        fix="Write the file again, or restore it from a copy.",
    )


class NoUsersError(InputError):
    """A table holds none of the users that were chosen."""


def no_users(share: float) -> NoUsersError:
    return NoUsersError(f"no user falls into a share of {share:.3g}", fix="Ask for a larger share or a larger size.")


def chosen_rows(
    table: TableFiles, choice: Choice, user: str, columns: list[str], totals: Totals, on_file: OnFile | None
) -> Iterator[pa.Table]:
    """Rows of the chosen users, file by file; heavy columns are decoded only where a chosen user is."""
    per_row = max(1, total_raw_bytes(totals) // max(1, totals.rows))
    batch_rows = int(np.clip(_BATCH_BYTES // per_row, 16, 65_536))
    for done, file in enumerate(choice.files(table), start=1):
        try:
            yield from _file_rows(table, file, choice, user, columns, batch_rows)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file, error) from None
        if on_file is not None:
            on_file(done)


def _file_rows(
    table: TableFiles, file: DataFile, choice: Choice, user: str, columns: list[str], batch_rows: int
) -> Iterator[pa.Table]:
    filesystem, path = table.resolve(file.path)
    with filesystem.open_input_file(path) as source:
        parquet = open_parquet(source)
        own = parquet.schema_arrow.names
        there = [c for c in columns if c in own]
        shown = there if table.arrow_schema is None else columns
        for group in range(parquet.num_row_groups):
            users = parquet.read_row_group(group, columns=[user] if user in own else there[:1])
            chosen = choice.keep(_in_schema(users, table, file, [user])[user])
            if not chosen.any():
                continue
            at = 0
            for batch in parquet.iter_batches(batch_size=batch_rows, row_groups=[group], columns=there):
                wanted = np.flatnonzero(chosen[at : at + batch.num_rows])
                at += batch.num_rows
                if len(wanted):
                    rows = _in_schema(pa.Table.from_batches([batch]), table, file, shown)
                    yield uniform(gather_table(rows, wanted).select(shown))


def _in_schema(rows: pa.Table, table: TableFiles, file: DataFile, columns: Sequence[str]) -> pa.Table:
    """Rows of a file in the one schema of all files, where there is one; what stands in its path is a column then."""
    if table.arrow_schema is None:
        return rows
    return conform(rows, pa.schema([table.arrow_schema.field(c) for c in columns]), file.partition)
