"""Feature groups: columns of further tables, joined to requests or impressions while they are decoded.

Which rows of a group belong to which requests or impressions is worked out once for all groups whose keys are stored
alike (``twin``): what each of them adds then is the decoding of its own columns.
"""

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

__all__ = ["FeatureRows", "FeatureSource", "Match", "match_impressions", "match_requests", "placed", "rows_of"]

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
        twin: Number of an earlier group of the unit whose rows have the same keys at the same places, file by file.
    """

    files: tuple[tuple[DataFile, Int64, Int32, Int32], ...]
    twin: int | None = None


@dataclass(frozen=True)
class Match:
    """Which rows of a feature group go where, for some requests of a unit; the same for its twins.

    Attributes:
        rows: Of each file the rows to take, ascending; ``None`` for none.
        place: (n,) which of them each request or impression gets, -1 for none; ``None`` for one after the other.
        size: n.
    """

    rows: tuple[Int64 | None, ...]
    place: Int64 | None
    size: int


def _chosen(rows: FeatureRows, start: int, stop: int) -> tuple[tuple[Int64 | None, ...], Int64]:
    """Of each file the rows of the requests ``start`` to ``stop``, and the request of each of all of them."""
    found: list[Int64 | None] = []
    owners = [np.empty(0, dtype=np.int64)]
    for _, starts, sizes, requests in rows.files:
        inside = (requests >= start) & (requests < stop)
        if not np.any(inside):
            found.append(None)
            continue
        counts = sizes[inside].astype(np.int64)
        order = np.argsort(starts[inside], kind="stable")
        found.append(ranges(starts[inside][order], counts[order]))
        owners.append(np.repeat(requests[inside][order].astype(np.int64), counts[order]))
    return tuple(found), np.concatenate(owners)


def rows_of(rows: FeatureRows, chosen: tuple[Int64 | None, ...], open_file: Opener) -> pa.Table | None:
    """The chosen rows of each file, one file after the other; ``None`` where there are none."""
    tables = [
        open_file(file).take(wanted)
        for (file, *_), wanted in zip(rows.files, chosen, strict=True)
        if wanted is not None
    ]
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def placed(table: pa.Table | None, columns: dict[str, pa.DataType], match: Match) -> dict[str, pa.Array]:
    """Columns of the rows that ``rows_of`` gave where they belong; null where nothing does."""
    if table is None:
        return {name: pa.nulls(match.size, type_) for name, type_ in columns.items()}
    chosen = table.select(list(columns))
    if match.place is None:
        return dict(zip(columns, chosen.columns, strict=True))
    missing = match.place < 0
    if not missing.any():
        return dict(zip(columns, gather_table(chosen, match.place).columns, strict=True))
    indices = pa.array(match.place, mask=missing)
    return {name: chosen[name].take(indices) for name in columns}


def match_requests(rows: FeatureRows, start: int, stop: int) -> Match:
    """Where a request-grain group's rows of the unit's requests ``start`` to ``stop`` go."""
    chosen, owners = _chosen(rows, start, stop)
    place = np.full(stop - start, -1, dtype=np.int64)
    place[owners - start] = np.arange(len(owners))
    in_order = len(owners) == len(place) and np.array_equal(place, np.arange(len(place)))
    return Match(chosen, None if in_order else place, len(place))


def match_impressions(
    rows: FeatureRows,
    open_file: Opener,
    start: int,
    stop: int,
    owners: Int64,
    positions: Int64,
    position_column: str,
) -> tuple[Match, pa.Table | None]:
    """Where an impression-grain group's rows go, of impressions given by request and position; and these rows.

    Args:
        rows: The group's rows.
        open_file: Opens a file's columns, the position among them.
        start, stop: Requests of the unit.
        owners: (B,) the unit's request of each impression.
        positions: (B,) its position.
        position_column: Its name.

    Raises:
        DuplicateRowsError: the group has two rows for one impression.
    """
    chosen, stored_owners = _chosen(rows, start, stop)
    together = rows_of(rows, chosen, open_file)
    if together is None:
        return Match(chosen, np.full(len(owners), -1, dtype=np.int64), len(owners)), None
    stored = together[position_column].to_numpy().astype(np.int64)
    low = min(int(positions.min(initial=0)), int(stored.min(initial=0)))
    width = max(int(positions.max(initial=0)), int(stored.max(initial=0))) - low + 1
    wanted, have = (owners - start) * width + positions - low, (stored_owners - start) * width + stored - low
    if np.array_equal(wanted, have):
        return Match(chosen, None, len(owners)), together
    order = np.argsort(have, kind="stable")
    have = have[order]
    if np.any(have[1:] == have[:-1]):
        raise DuplicateRowsError("a feature group has two rows for one impression", expected="one row per impression")
    place = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
    return Match(chosen, np.where(have[place] == wanted, order[place], -1), len(owners)), together
