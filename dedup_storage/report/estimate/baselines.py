"""Honest baselines: the same rows stored in other ways, written to nowhere and counted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import pyarrow as pa

from dedup_storage.dedup import gather
from dedup_storage.dedup.dictionary import MOST_LISTS, wants_dictionary
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.runs import Int64
from dedup_storage.layout import sequence_properties
from dedup_storage.report.draw.hashing import hash_column
from dedup_storage.report.draw.users import LogSample
from dedup_storage.report.estimate.floor import events_once
from dedup_storage.report.parquet.counting import Written, encode
from dedup_storage.report.parquet.encoding import ICEBERG_DEFAULTS, Encoding

__all__ = [
    "ALL_LAYOUTS",
    "BaselineLayout",
    "LayoutBytes",
    "default_tuned",
    "measure_layout",
    "measure_layouts",
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
    BaselineLayout.FLOOR: "floor: every event of every user once",
}


@dataclass(frozen=True)
class LayoutBytes:
    """What one layout of the sample came to.

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


def starting_encoding(sample: LogSample) -> Encoding:
    """What a new dataset of the sample's log would start from."""
    sequences = sample.schema.sequence_columns
    some = np.unique(np.linspace(0, sample.num_requests - 1, MOST_LISTS).astype(np.int64))
    lists = {name: list_parts(gather(sample.requests[name], some)) for name in sequences}
    wanted = [name for name, (values, offsets) in lists.items() if wants_dictionary(hash_column(values), offsets)]
    return default_tuned(sequences, wanted)


def measure_layouts(
    sample: LogSample,
    *,
    layouts: tuple[BaselineLayout, ...] = ALL_LAYOUTS,
    tuned: Encoding | None = None,
    on_layout: Callable[[BaselineLayout], None] | None = None,
) -> dict[BaselineLayout, LayoutBytes]:
    """Write the sample in several layouts and count.

    Args:
        sample: Rows of whole users.
        layouts: Which.
        tuned: Encoding of the tuned layouts and the split one; ``None`` takes a new dataset's.
        on_layout: Called before each, for progress.
    """
    measured = {}
    tuned = tuned or starting_encoding(sample)
    for layout in layouts:
        if on_layout is not None:
            on_layout(layout)
        measured[layout] = measure_layout(sample, layout, tuned)
    return measured


def measure_layout(sample: LogSample, layout: BaselineLayout, tuned: Encoding | None = None) -> LayoutBytes:
    """Write the sample in one layout and count.

    The floor is written with and without dictionaries, and each column counts with the smaller: the floor must
    not look high because it was encoded badly.
    """
    best = tuned if tuned is not None else starting_encoding(sample)
    if layout is BaselineLayout.FLOOR:
        return _floor(sample, best)
    if layout is BaselineLayout.SPLIT:
        requests = _table(sample.requests, best)
        impressions = _table(sample.impression_table(), best)
        columns = dict(requests.columns)
        for name, size in impressions.columns.items():
            columns[name] = columns.get(name, 0) + size
        return LayoutBytes(layout, columns, requests.rows + impressions.rows, requests.seconds + impressions.seconds)
    encoding = best if layout is BaselineLayout.FLAT_SORTED_TUNED else ICEBERG_DEFAULTS
    if layout is BaselineLayout.FLAT_SHUFFLED and sample.share < 1:
        # Fewer users make copies denser; pages with as many fewer rows keep the expected copies (see estimate.py).
        encoding = replace(
            encoding,
            page_bytes=max(_SMALLEST_PAGE_BYTES, round(encoding.page_bytes * sample.share)),
            least_rows=max(1, round(encoding.least_rows * sample.share)),
            most_rows=max(1, round(encoding.most_rows * sample.share)),
        )
    written = encode(sample.flat(_order(sample, layout)), sample.flat_schema(), encoding)
    return LayoutBytes(layout, written.columns, written.rows, written.seconds)


def _order(sample: LogSample, layout: BaselineLayout) -> Int64:
    if layout is BaselineLayout.FLAT_ARRIVAL:
        return sample.arrival
    if layout is BaselineLayout.FLAT_SHUFFLED:
        return np.random.default_rng(_SHUFFLE_SEED).permutation(sample.num_impressions)
    return np.arange(sample.num_impressions, dtype=np.int64)


def _floor(sample: LogSample, encoding: Encoding) -> LayoutBytes:
    events = events_once(sample)
    columns: dict[str, int] = {}
    seconds = 0.0
    for on in (False, True):
        written = _table(events, encoding.with_columns(dict.fromkeys(events.column_names, on)))
        seconds += written.seconds
        for name, size in written.columns.items():
            columns[name] = min(size, columns.get(name, size))
    return LayoutBytes(BaselineLayout.FLOOR, columns, events.num_rows, seconds)


def _table(table: pa.Table, encoding: Encoding) -> Written:
    return encode(_slices(table), table.schema, encoding)


def _slices(table: pa.Table) -> Iterator[pa.RecordBatch]:
    yield from table.combine_chunks().to_batches(max_chunksize=65_536)
