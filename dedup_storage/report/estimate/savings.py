"""``estimate``: what a flat log would need as a dataset, and what B / R saves in the shuffle and on the GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict

from dedup_storage.dedup import gather
from dedup_storage.dedup.gather import list_parts
from dedup_storage.errors import UsageError
from dedup_storage.layout import propose_segments
from dedup_storage.report.draw.select import (
    DRAW_BYTES,
    DrawEngine,
    draw_flat,
    nested_log,
    refuse_idle_budget,
    rows_per_request,
)
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.estimate.baselines import BaselineLayout
from dedup_storage.report.estimate.intervals import Floats, Interval, ratio_interval
from dedup_storage.report.estimate.known import known_totals
from dedup_storage.report.estimate.layouts import estimate_layouts, is_list
from dedup_storage.report.estimate.user_grain import estimate_user_grain
from dedup_storage.report.estimate.user_layout import plan_histories
from dedup_storage.report.model import DrawSize, Range, UserGrain
from dedup_storage.report.parquet.footers import OnFile
from dedup_storage.report.parquet.measured import Measured
from dedup_storage.report.parquet.tables import TableFiles
from dedup_storage.schema import LogSchema

__all__ = ["LayoutSaving", "Savings", "estimate_savings"]

_LAYOUTS = (
    BaselineLayout.FLAT_SORTED, BaselineLayout.FLAT_SORTED_TUNED, BaselineLayout.SPLIT, BaselineLayout.USER,
    BaselineLayout.FLOOR,
)  # fmt: skip


# A draw is held with each request's values once: so many times its flat rows may be drawn, if they collapse as far.
_MOST_TIMES = 8.0
_PRECISION = 0.08


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
        user_grain: What each sequence group would be with each event of a user stored once.
    """

    format: int = 1
    source: str
    rows: int
    stored_bytes: int
    sequence_bytes: int
    sample: DrawSize
    confidence: float
    requests: Range
    dedup_factor: float
    flat_wire_bytes: float
    split_wire_bytes: float
    wire_saving: float
    buckets: int
    layouts: tuple[LayoutSaving, ...]
    user_grain: tuple[UserGrain, ...] = ()


def estimate_savings(
    table: TableFiles,
    schema: LogSchema,
    *,
    share: float | None = None,
    draw_bytes: int = DRAW_BYTES,
    confidence: float = 0.95,
    files: int | None = None,
    precision: float = _PRECISION,
    on_file: OnFile | None = None,
    on_step: Callable[[str], None] | None = None,
    engine: DrawEngine | None = None,
) -> Savings:
    """Estimate from a draw of whole users, without writing a dataset.

    Args:
        table: The log's files.
        schema: Meaning of its columns.
        share: Share of the users, all of them measured; ``None`` begins with ``draw_bytes``.
        draw_bytes: Raw bytes of the rows to begin with. Up to eight times as many are read where requests repeat
            that often, held once a request, and measured as far as ``precision`` asks for.
        confidence: Of the intervals.
        files: Segments of the dataset to be; ``None`` proposes them from the log's size.
        precision: Half width of the intervals to aim at, relative to the value.
        on_file, on_step: Progress.
        engine: Draws the rows, where there is too much to read here.

    Raises:
        SchemaError, UnknownColumnError, InputError, StorageError, UsageError: see ``draw_flat``; or a share beside a
            size or a precision, which it makes idle.
    """
    refuse_idle_budget(share, draw_bytes)
    if share is not None and precision != _PRECISION:
        raise UsageError("precision does nothing beside a share, all of which is measured", fix="Leave it out.")
    step = on_step or (lambda _: None)
    step("Reading footers")
    measured = Measured.read(schema, (table,), on_file)
    totals = measured.totals[table.name]
    schema.require_columns(table.columns(totals), table.name)
    step("Drawing users")
    if schema.candidates:
        raise nested_log()
    probe = rows_per_request if engine is None else engine.rows_per_request
    factor = 1.0 if share is not None else probe(table, schema)
    budget = round(draw_bytes * min(_MOST_TIMES, factor))
    draw = draw_flat(table, totals, schema, share=share, budget_bytes=budget, on_file=on_file, engine=engine)
    segments = files or schema.buckets or propose_segments(totals.size_bytes, 0, 0)[1]
    step("Looking for windows")
    known, plans = known_totals(measured), plan_histories(draw)
    estimates = estimate_layouts(
        draw,
        known,
        layouts=_LAYOUTS,
        plans=plans,
        files=dict.fromkeys((b for b in _LAYOUTS if b is not BaselineLayout.FLOOR), segments),
        confidence=confidence,
        precision=precision if share is None else None,
        start_bytes=draw_bytes if share is None else None,
        on_layout=lambda b: step(f"Writing the draw: {b.label}"),
    )
    sequences = sum(totals.columns[c].stored_bytes for c in schema.sequence_columns)
    flat_wire, split_wire = _wire(draw)
    step("Matching histories")
    grain = estimate_user_grain(draw, known, plans, estimates, confidence=confidence)
    scale = totals.rows / draw.num_impressions
    return Savings(
        source=table.name,
        rows=totals.rows,
        stored_bytes=totals.size_bytes,
        sequence_bytes=sequences,
        sample=DrawSize(
            share=draw.share, users=draw.num_users, requests=draw.num_requests, impressions=draw.num_impressions
        ),
        confidence=confidence,
        requests=_range(_requests(draw, totals.rows, confidence)),
        dedup_factor=draw.num_impressions / draw.num_requests,
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
        user_grain=grain,
    )


def _range(interval: Interval) -> Range:
    return Range(value=interval.value, low=interval.low, high=interval.high)


def _requests(draw: LogDraw, rows: int, confidence: float) -> Interval:
    """R of the whole log by the ratio estimator over users: x impressions, y requests of a user."""
    users, index = np.unique(draw.users, return_inverse=True)
    y: Floats = np.bincount(index, minlength=len(users)).astype(np.float64)
    x: Floats = np.bincount(index[draw.inverse], minlength=len(users)).astype(np.float64)
    found = ratio_interval(
        float(y.sum()), x, y, float(rows), share=min(1.0, draw.share), confidence=confidence, model_error=0.0
    )
    # Those that were drawn are counted, and each other row is of one more at most.
    return found.within(draw.num_requests, draw.num_requests + rows - draw.num_impressions)


def _wire(draw: LogDraw) -> tuple[float, float]:
    """Arrow bytes of the draw as flat rows, and as request rows, impression rows and the index between them."""
    counts = np.bincount(draw.inverse, minlength=draw.num_requests).astype(np.float64)
    row_bytes = np.zeros(draw.num_requests)
    for name in draw.requests.column_names:
        row_bytes += _row_bytes(draw, name)
    index_bytes = 8 * draw.num_impressions
    impressions = draw.impressions.nbytes
    flat = float((row_bytes * counts).sum()) + impressions
    return flat, float(row_bytes.sum()) + impressions + index_bytes


def _row_bytes(draw: LogDraw, name: str) -> Floats:
    """Arrow bytes of each request row's value; strings and nested values by their mean. (num_requests,) float64."""
    column = draw.requests[name]
    if is_list(column.type):
        array = gather(column, np.arange(draw.num_requests, dtype=np.int64))
        values, offsets = list_parts(array)
        per_element = values.nbytes / max(1, len(values))
        return np.diff(offsets) * per_element + 4.0
    return np.full(draw.num_requests, column.nbytes / max(1, draw.num_requests))
