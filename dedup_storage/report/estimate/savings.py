"""``estimate``: what a flat log would need as a dataset, and what B / R saves in the shuffle and on the GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dedup_storage.dedup import gather
from dedup_storage.dedup.gather import list_parts
from dedup_storage.layout import propose_segments
from dedup_storage.report.draw.select import SAMPLE_BYTES, Draw, nested_log, rows_per_request, sample_flat
from dedup_storage.report.draw.users import LogSample
from dedup_storage.report.estimate.baselines import BaselineLayout
from dedup_storage.report.estimate.intervals import Floats, Interval, ratio_interval
from dedup_storage.report.estimate.layouts import estimate_layouts, is_list
from dedup_storage.report.measure import Measured, known_totals
from dedup_storage.report.model import Range, Sampled
from dedup_storage.report.parquet.dataset_files import TableFiles
from dedup_storage.report.parquet.footers import OnFile
from dedup_storage.report.show.summary import human_bytes
from dedup_storage.report.show.text import span, times
from dedup_storage.schema import LogSchema

__all__ = ["LayoutSaving", "Savings", "estimate_savings", "savings_text"]

_LAYOUTS = (
    BaselineLayout.FLAT_SORTED, BaselineLayout.FLAT_SORTED_TUNED, BaselineLayout.SPLIT, BaselineLayout.FLOOR,
)  # fmt: skip


# A sample is held with each request's values once: so many times its flat rows may be drawn, if they collapse as far.
_MOST_TIMES = 8.0


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayoutSaving(_Frozen):
    """Expected stored bytes in one layout, and how many times smaller than now; ``share``: of the users measured."""

    layout: str
    title: str
    sequences: Range
    total: Range
    sequence_saving: float | None
    total_saving: float | None
    rough: bool
    share: float


class Savings(_Frozen):
    """What a flat log would save.

    Attributes:
        stored_bytes, sequence_bytes: Now, from footers: exact.
        requests: R, estimated.
        dedup_factor: B / R.
        flat_wire_bytes, split_wire_bytes: Arrow bytes of all rows as flat rows, and as request and impression rows:
            what a shuffle of the log moves, and what batches send to the GPU.
        buckets: User buckets that the estimate assumes.
    """

    format: int = 1
    source: str
    rows: int
    stored_bytes: int
    sequence_bytes: int
    sample: Sampled
    confidence: float
    requests: Range
    dedup_factor: float
    flat_wire_bytes: float
    split_wire_bytes: float
    wire_saving: float
    buckets: int
    layouts: tuple[LayoutSaving, ...]


def estimate_savings(
    table: TableFiles,
    schema: LogSchema,
    *,
    share: float | None = None,
    sample_bytes: int = SAMPLE_BYTES,
    confidence: float = 0.95,
    files: int | None = None,
    precision: float = 0.08,
    on_file: OnFile | None = None,
    on_step: Callable[[str], None] | None = None,
    draw: Draw | None = None,
) -> Savings:
    """Estimate from a sample of whole users, without writing a dataset.

    Args:
        table: The log's files.
        schema: Meaning of its columns.
        share: Share of the users, all of them measured; ``None`` begins with ``sample_bytes``.
        sample_bytes: Raw bytes of the rows to begin with. Up to eight times as many are read where requests repeat
            that often, held once a request, and measured as far as ``precision`` asks for.
        confidence: Of the intervals.
        files: Segments of the dataset to be; ``None`` proposes them from the log's size.
        precision: Half width of the intervals to aim at, relative to the value.
        on_file, on_step: Progress.
        draw: Draws the sample's rows, where there is too much to read here.

    Raises:
        SchemaError, UnknownColumnError, InputError, StorageError, UsageError: see ``sample_flat``.
    """
    step = on_step or (lambda _: None)
    step("Reading footers")
    measured = Measured.read(schema, (table,), on_file)
    totals = measured.totals[table.name]
    schema.require_columns(table.columns(totals), table.name)
    step("Sampling users")
    if schema.candidates:
        raise nested_log()
    factor = 1.0 if share is not None else (rows_per_request if draw is None else draw.rows_per_request)(table, schema)
    budget = round(sample_bytes * min(_MOST_TIMES, factor))
    sample = sample_flat(table, totals, schema, share=share, budget_bytes=budget, on_file=on_file, draw=draw)
    segments = files or schema.buckets or propose_segments(totals.size_bytes, 0, 0)[1]
    estimates = estimate_layouts(
        sample,
        known_totals(measured),
        layouts=_LAYOUTS,
        files=dict.fromkeys((b for b in _LAYOUTS if b is not BaselineLayout.FLOOR), segments),
        confidence=confidence,
        precision=precision if share is None else None,
        start_bytes=sample_bytes if share is None else None,
        on_layout=lambda b: step(f"Writing the sample: {b.label}"),
    )
    sequences = sum(totals.columns[c].stored_bytes for c in schema.sequence_columns)
    flat_wire, split_wire = _wire(sample)
    scale = totals.rows / sample.num_impressions
    return Savings(
        source=table.name,
        rows=totals.rows,
        stored_bytes=totals.size_bytes,
        sequence_bytes=sequences,
        sample=Sampled(
            share=sample.share, users=sample.num_users, requests=sample.num_requests, impressions=sample.num_impressions
        ),
        confidence=confidence,
        requests=_range(_requests(sample, totals.rows, confidence)),
        dedup_factor=sample.num_impressions / sample.num_requests,
        flat_wire_bytes=flat_wire * scale,
        split_wire_bytes=split_wire * scale,
        wire_saving=flat_wire / max(1, split_wire),
        buckets=segments,
        layouts=tuple(
            LayoutSaving(
                layout=layout.value,
                title=layout.label,
                sequences=_range(e.sequences),
                total=_range(e.total),
                sequence_saving=sequences / e.sequences.value if e.sequences.value else None,
                total_saving=(
                    totals.column_bytes / e.total.value
                    if e.total.value and layout is not BaselineLayout.FLOOR
                    else None
                ),
                rough=e.rough,
                share=e.share,
            )
            for layout, e in estimates.items()
        ),
    )


def _range(interval: Interval) -> Range:
    return Range(value=interval.value, low=interval.low, high=interval.high)


def _requests(sample: LogSample, rows: int, confidence: float) -> Interval:
    """R of the whole log by the ratio estimator over users: x impressions, y requests of a user."""
    users, index = np.unique(sample.users, return_inverse=True)
    y: Floats = np.bincount(index, minlength=len(users)).astype(np.float64)
    x: Floats = np.bincount(index[sample.inverse], minlength=len(users)).astype(np.float64)
    return ratio_interval(
        float(y.sum()), x, y, float(rows), share=min(1.0, sample.share), confidence=confidence, model_error=0.0
    )


def _wire(sample: LogSample) -> tuple[float, float]:
    """Arrow bytes of the sample as flat rows, and as request rows, impression rows and the index between them."""
    counts = np.bincount(sample.inverse, minlength=sample.num_requests).astype(np.float64)
    row_bytes = np.zeros(sample.num_requests)
    for name in sample.requests.column_names:
        row_bytes += _row_bytes(sample, name)
    index_bytes = 8 * sample.num_impressions
    impressions = sample.impressions.nbytes
    flat = float((row_bytes * counts).sum()) + impressions
    return flat, float(row_bytes.sum()) + impressions + index_bytes


def _row_bytes(sample: LogSample, name: str) -> Floats:
    """Arrow bytes of each request row's value; strings and nested values by their mean. (num_requests,) float64."""
    column = sample.requests[name]
    if is_list(column.type):
        array = gather(column, np.arange(sample.num_requests, dtype=np.int64))
        values, offsets = list_parts(array)
        per_element = values.nbytes / max(1, len(values))
        return np.diff(offsets) * per_element + 4.0
    return np.full(sample.num_requests, column.nbytes / max(1, sample.num_requests))


def savings_text(savings: Savings) -> Group:
    """The estimate for a terminal."""
    table = Table(title="Expected stored bytes", title_justify="left", box=None, pad_edge=False)
    table.add_column("stored as")
    for heading in ("sequence columns", "smaller by", "all columns", "smaller by", "users measured"):
        table.add_column(heading, justify="right")
    now = (human_bytes(savings.sequence_bytes), "1", human_bytes(savings.stored_bytes), "1", "")
    table.add_row("as it is now", *now)
    for row in savings.layouts:
        floor = row.total_saving is None
        total = "-" if floor else span(row.total, row.rough)
        cells = (
            span(row.sequences, row.rough),
            times(row.sequence_saving),
            total,
            times(row.total_saving),
            f"{row.share:.2%}",
        )
        table.add_row(row.title, *cells)
    s = savings.sample
    drawn = f"{s.share:.2%} of the users ({s.users:,} users, {s.impressions:,} rows)"
    requests = f"{savings.requests.value:,.0f}"
    if savings.requests.low < savings.requests.high:
        requests += f" ({savings.requests.low:,.0f} to {savings.requests.high:,.0f})"
    return Group(
        Text(f"{savings.source}: {savings.rows:,} rows; measured on {drawn}."),
        Text(f"Requests: {requests}; impressions a request (B / R): {savings.dedup_factor:.1f}."),
        table,
        Text(
            f"In memory, as rows are shuffled and sent to the GPU: {human_bytes(savings.flat_wire_bytes)} "
            f"flat, {human_bytes(savings.split_wire_bytes)} split: {times(savings.wire_saving)} less."
        ),
    )
