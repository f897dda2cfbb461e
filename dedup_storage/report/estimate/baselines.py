"""Honest baselines: the same rows stored in other ways, written to nowhere and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import pyarrow as pa

from dedup_storage.dedup import gather
from dedup_storage.dedup.dictionary import MOST_LISTS, wants_dictionary
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.hashing import hash_column
from dedup_storage.dedup.runs import Int64
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.estimate.floor import events_once
from dedup_storage.report.estimate.grain_plan import Plans
from dedup_storage.report.estimate.user_layout import plan_histories, user_tables
from dedup_storage.report.parquet.counting import Written, encode
from dedup_storage.report.parquet.encoding import ICEBERG_DEFAULTS, Encoding
from dedup_storage.table_properties import sequence_properties

__all__ = [
    "ALL_LAYOUTS",
    "BaselineLayout",
    "LayoutBytes",
    "default_tuned",
    "measure_layout",
    "starting_encoding",
]

_SHUFFLE_SEED = 20_240_501
_SMALLEST_PAGE_BYTES = 16 * 1024


class BaselineLayout(StrEnum):
    """Ways to store one log."""

    FLAT_ARRIVAL = "flat_arrival"
    FLAT_SHUFFLED = "flat_shuffled"
    FLAT_SORTED = "flat_sorted"
    FLAT_SORTED_TUNED = "flat_sorted_tuned"
    SPLIT = "split"
    USER = "user"
    FLOOR = "floor"

    @property
    def label(self) -> str:
        """What it is, for people."""
        return _TITLES[self]


ALL_LAYOUTS = tuple(BaselineLayout)
_TITLES = {
    BaselineLayout.FLAT_ARRIVAL: "flat, in order of arrival",
    BaselineLayout.FLAT_SHUFFLED: "flat, shuffled",
    BaselineLayout.FLAT_SORTED: "flat, sorted, default properties",
    BaselineLayout.FLAT_SORTED_TUNED: "flat, sorted, tuned properties",
    BaselineLayout.SPLIT: "split, tuned properties",
    BaselineLayout.USER: "layout user: windows, and every event once",
    BaselineLayout.FLOOR: "floor: every event of every user once",
}


@dataclass(frozen=True)
class LayoutBytes:
    """What one layout of the draw came to.

    Attributes:
        columns: Column -> stored bytes; keys that a split layout holds twice are summed.
        rows: Rows written, all tables together.
        seconds: Processor time spent encoding.
    """

    layout: BaselineLayout
    columns: Mapping[str, int]
    rows: int
    seconds: float

    @property
    def total_bytes(self) -> int:
        """Stored bytes of all columns."""
        return sum(self.columns.values())

    def of(self, names: tuple[str, ...] | list[str]) -> int:
        """Stored bytes of some columns."""
        return sum(self.columns.get(name, 0) for name in names)


def default_tuned(sequences: Sequence[str], dictionaries: Collection[str] = ()) -> Encoding:
    """What a new dataset starts from: 8 MiB pages, no dictionary for sequence columns but those named."""
    return Encoding.from_properties(sequence_properties({c: c in dictionaries for c in sequences}))


def starting_encoding(draw: LogDraw) -> Encoding:
    """What a new dataset of the draw's log would start from."""
    sequences = draw.schema.sequence_columns
    some = np.unique(np.linspace(0, draw.num_requests - 1, MOST_LISTS).astype(np.int64))
    lists = {name: list_parts(gather(draw.requests[name], some)) for name in sequences}
    wanted = [name for name, (values, offsets) in lists.items() if wants_dictionary(hash_column(values), offsets)]
    return default_tuned(sequences, wanted)


def measure_layout(
    draw: LogDraw,
    layout: BaselineLayout,
    tuned: Encoding | None = None,
    plans: Plans | None = None,
) -> LayoutBytes:
    """Write the draw in one layout and count.

    The floor is written with and without dictionaries, and each column counts with the smaller: the floor must
    not look high because it was encoded badly. So are the events of layout ``user``.

    Args:
        draw: Rows of whole users.
        layout: Which.
        tuned: Encoding of the tuned layouts; ``None`` takes what a new dataset of the draw would start from.
        plans: How the user grain reads each sequence group; ``None`` finds out.
    """
    best = tuned if tuned is not None else starting_encoding(draw)
    if layout is BaselineLayout.FLOOR:
        return _floor(draw, best)
    if layout is BaselineLayout.USER:
        return _user(draw, best, plan_histories(draw) if plans is None else plans)
    if layout is BaselineLayout.SPLIT:
        requests = _table(draw.requests, best)
        impressions = _table(draw.impression_table(), best)
        columns = dict(requests.columns)
        for name, size in impressions.columns.items():
            columns[name] = columns.get(name, 0) + size
        return LayoutBytes(layout, columns, requests.rows + impressions.rows, requests.seconds + impressions.seconds)
    encoding = best if layout is BaselineLayout.FLAT_SORTED_TUNED else ICEBERG_DEFAULTS
    if layout is BaselineLayout.FLAT_SHUFFLED and draw.share < 1:
        # Fewer users make copies denser; pages with as many fewer rows keep the expected copies (see estimate.py).
        encoding = replace(
            encoding,
            page_bytes=max(_SMALLEST_PAGE_BYTES, round(encoding.page_bytes * draw.share)),
            least_rows=max(1, round(encoding.least_rows * draw.share)),
            most_rows=max(1, round(encoding.most_rows * draw.share)),
        )
    written = encode(draw.flat(_order(draw, layout)), draw.flat_schema(), encoding)
    return LayoutBytes(layout, written.columns, written.rows, written.seconds)


def _order(draw: LogDraw, layout: BaselineLayout) -> Int64:
    if layout is BaselineLayout.FLAT_ARRIVAL:
        return draw.arrival
    if layout is BaselineLayout.FLAT_SHUFFLED:
        return np.random.default_rng(_SHUFFLE_SEED).permutation(draw.num_impressions)
    return np.arange(draw.num_impressions, dtype=np.int64)


def _floor(draw: LogDraw, encoding: Encoding) -> LayoutBytes:
    events = events_once(draw)
    columns, seconds = _smaller(events, encoding)
    return LayoutBytes(BaselineLayout.FLOOR, columns, events.num_rows, seconds)


def _user(draw: LogDraw, encoding: Encoding, plans: Plans) -> LayoutBytes:
    """Requests with windows, impressions, and a table of events for each sequence group.

    What a group's windows, users and positions need counts with the group's first column.
    """
    tables = user_tables(draw, plans)
    requests, impressions = _table(tables.requests, encoding), _table(draw.impression_table(), encoding)
    columns = Counter(requests.columns) + Counter(impressions.columns)
    rows, seconds = requests.rows + impressions.rows, requests.seconds + impressions.seconds
    for group in tables.groups:
        for table in (group.events, group.windows):
            sizes, spent = _smaller(table, encoding)
            seconds += spent
            for name, size in sizes.items():
                columns[name if name in group.columns else group.columns[0]] += size
        rows += group.events.num_rows
    return LayoutBytes(BaselineLayout.USER, dict(columns), rows, seconds)


def _smaller(table: pa.Table, encoding: Encoding) -> tuple[dict[str, int], float]:
    """Bytes of each column with its dictionary or without, whichever is less, and the seconds that both took."""
    columns: dict[str, int] = {}
    seconds = 0.0
    for on in (False, True):
        written = _table(table, encoding.with_columns(dict.fromkeys(table.column_names, on)))
        seconds += written.seconds
        for name, size in written.columns.items():
            columns[name] = min(size, columns.get(name, size))
    return columns, seconds


def _table(table: pa.Table, encoding: Encoding) -> Written:
    return encode(_slices(table), table.schema, encoding)


def _slices(table: pa.Table) -> Iterator[pa.RecordBatch]:
    yield from table.combine_chunks().to_batches(max_chunksize=65_536)
