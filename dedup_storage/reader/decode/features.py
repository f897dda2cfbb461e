"""Feature groups: columns of further tables, joined to requests or impressions while they are decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup.expand import ranges
from dedup_storage.dedup.gather import gather_table
from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import DuplicateRowsError
from dedup_storage.reader.decode.files import DataFile, RowStream, TableRef
from dedup_storage.schema import Grain

__all__ = ["FeatureRows", "FeatureSource", "join_impressions", "join_requests"]

Int32 = npt.NDArray[np.int32]
Opener = Callable[[DataFile], RowStream]


@dataclass(frozen=True)
class FeatureSource:
    """What a feature group's rows are read from; crosses process borders.

    Attributes:
        grain: Grain of its rows.
        table: Its table.
        columns: Columns to join.
    """

    grain: Grain
    table: TableRef
    columns: tuple[str, ...]


@dataclass(frozen=True)
class FeatureRows:
    """Rows of a feature group that belong to one unit.

    Attributes:
        files: Their files; with each the first row and the number of rows of every run (one row at request
            grain), and the unit's request that it belongs to.
    """

    files: tuple[tuple[DataFile, Int64, Int32, Int32], ...]


def _read(rows: FeatureRows, open_file: Opener, start: int, stop: int) -> tuple[list[pa.Table], Int64]:
    """Rows of the requests ``start`` to ``stop``, and the request of each."""
    tables, owners = [], [np.empty(0, dtype=np.int64)]
    for file, starts, sizes, requests in rows.files:
        inside = (requests >= start) & (requests < stop)
        if not np.any(inside):
            continue
        counts = sizes[inside].astype(np.int64)
        order = np.argsort(starts[inside], kind="stable")
        tables.append(open_file(file).take(ranges(starts[inside][order], counts[order])))
        owners.append(np.repeat(requests[inside][order].astype(np.int64), counts[order]))
    return tables, np.concatenate(owners)


def _place(table: pa.Table | None, columns: dict[str, pa.DataType], rows: Int64) -> dict[str, pa.Array]:
    """Columns with row ``rows[i]`` at i; null where it is -1."""
    if table is None:
        return {name: pa.nulls(len(rows), type_) for name, type_ in columns.items()}
    missing = rows < 0
    chosen = table.select(list(columns))
    if not missing.any():
        return dict(zip(columns, gather_table(chosen, rows).columns, strict=True))
    indices = pa.array(rows, mask=missing)
    return {name: chosen[name].take(indices) for name in columns}


def join_requests(
    rows: FeatureRows, columns: dict[str, pa.DataType], open_file: Opener, start: int, stop: int
) -> dict[str, pa.Array]:
    """A request-grain group's columns for the unit's requests ``start`` to ``stop``; null where it has no row."""
    tables, owners = _read(rows, open_file, start, stop)
    place = np.full(stop - start, -1, dtype=np.int64)
    place[owners - start] = np.arange(len(owners))
    together = pa.concat_tables(tables, promote_options="permissive") if tables else None
    return _place(together, columns, place)


def join_impressions(
    rows: FeatureRows,
    columns: dict[str, pa.DataType],
    open_file: Opener,
    start: int,
    stop: int,
    owners: Int64,
    positions: Int64,
    position_column: str,
) -> dict[str, pa.Array]:
    """An impression-grain group's columns for impressions given by request and position.

    Args:
        owners: (B,) the unit's request of each impression.
        positions: (B,) its position.

    Raises:
        DuplicateRowsError: the group has two rows for one impression.
    """
    tables, stored_owners = _read(rows, open_file, start, stop)
    if not tables:
        return _place(None, columns, np.full(len(owners), -1, dtype=np.int64))
    together = pa.concat_tables(tables, promote_options="permissive")
    stored = together[position_column].to_numpy().astype(np.int64)
    low = min(int(positions.min(initial=0)), int(stored.min(initial=0)))
    width = max(int(positions.max(initial=0)), int(stored.max(initial=0))) - low + 1
    wanted, have = (owners - start) * width + positions - low, (stored_owners - start) * width + stored - low
    if np.array_equal(wanted, have):
        return _place(together, columns, np.arange(len(wanted), dtype=np.int64))
    order = np.argsort(have, kind="stable")
    have = have[order]
    if np.any(have[1:] == have[:-1]):
        raise DuplicateRowsError("a feature group has two rows for one impression", expected="one row per impression")
    place = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
    return _place(together, columns, np.where(have[place] == wanted, order[place], -1))
