"""Building the report: footers for what is stored, a draw of whole users for what repeats and what else could be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from dedup_storage.errors import UnknownColumnError, known_names
from dedup_storage.layout import TableRole
from dedup_storage.report.draw.named import NamedUsers
from dedup_storage.report.draw.repetition import Repetition, repetition
from dedup_storage.report.draw.select import DRAW_BYTES, DrawEngine, draw_dataset, draw_flat
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.estimate.baselines import ALL_LAYOUTS, BaselineLayout, starting_encoding
from dedup_storage.report.estimate.curves import curves
from dedup_storage.report.estimate.intervals import Interval
from dedup_storage.report.estimate.known import known_totals
from dedup_storage.report.estimate.layouts import LayoutEstimate, estimate_layouts
from dedup_storage.report.estimate.user_grain import estimate_user_grain
from dedup_storage.report.estimate.user_layout import plan_histories
from dedup_storage.report.model import (
    Baseline,
    ColumnReport,
    DrawSize,
    PartReport,
    Range,
    Report,
    TableReport,
    UserGrain,
)
from dedup_storage.report.parquet.encoding import Encoding
from dedup_storage.report.parquet.footers import OnFile, Totals
from dedup_storage.report.parquet.measured import Measured
from dedup_storage.report.parquet.raw_bytes import element_count, raw_bytes
from dedup_storage.report.parquet.tables import DatasetFiles, TableFiles
from dedup_storage.schema import Grain, LogSchema
from dedup_storage.words import counted

__all__ = ["measure_dataset", "measure_log"]

OnStep = Callable[[str], None]
_DRAWN = "Dedup factors come from {share:.2%} of the users, baselines are estimates with their 95 % interval."
# Layouts whose files hold whole users.
_BY_USER = (
    BaselineLayout.FLAT_SORTED, BaselineLayout.FLAT_SORTED_TUNED, BaselineLayout.SPLIT, BaselineLayout.USER,
)  # fmt: skip
_NO_HISTORIES = (
    "The log has no histories (sequences): no other layout is compared, since there is little to store once."
)
_DELETES = "Deletion vectors mark {rows} as deleted, of which the bytes are still stored and counted."


def measure_dataset(
    dataset: DatasetFiles,
    *,
    baselines: tuple[BaselineLayout, ...] = ALL_LAYOUTS,
    share: float | None = None,
    draw_bytes: int = DRAW_BYTES,
    columns: tuple[str, ...] = (),
    with_curves: bool = True,
    on_file: OnFile | None = None,
    on_step: OnStep | None = None,
    engine: DrawEngine | None = None,
    named: NamedUsers | None = None,
) -> Report:
    """Report on a version of a dataset.

    Args:
        dataset: Its files.
        baselines: Layouts to compare with; none leaves out everything that reads data.
        share: Share of the users for baselines; ``None`` fits ``draw_bytes``.
        draw_bytes: Raw bytes of the draw as a flat log.
        columns: Report on these alone; all when empty.
        with_curves: Also measure the ratio against sequence length and candidates.
        on_file, on_step: Progress: footers read; what is being done.
        engine: Draws the rows, where there is too much to read here.
        named: The users of a named sample, in place of a share (``report.draw.named.named_users``).

    Raises:
        UnknownColumnError: a column that no table has.
        StorageError: names a file that cannot be read.
        InputError, SchemaError: no rows, or a share or a sample of a log without sequence columns.
    """
    dataset.spec.require_stored_lists("the compression report")
    step = on_step or _silent
    step("Reading footers")
    measured = Measured.read(dataset.spec.schema_, dataset.tables, on_file)
    _require_columns(measured, columns, dataset.spec.name)
    draw = None
    # What was asked for is refused, not left out: a share or a sample of a log without histories.
    if baselines and (dataset.spec.schema_.sequence_columns or share is not None or named is not None):
        step("Drawing users")
        draw = draw_dataset(dataset, dict(measured.totals), share=share, budget_bytes=draw_bytes, engine=engine,
                                named=named)  # fmt: skip
    encoding = Encoding.from_properties(dataset.tables[0].properties)
    return _report(
        measured, draw, encoding, baselines, columns, with_curves, step, dataset.spec.name, dataset.version,
        dataset.spec.layout.value,
    )  # fmt: skip


def measure_log(
    table: TableFiles,
    schema: LogSchema,
    *,
    baselines: tuple[BaselineLayout, ...] = ALL_LAYOUTS,
    share: float | None = None,
    draw_bytes: int = DRAW_BYTES,
    columns: tuple[str, ...] = (),
    with_curves: bool = True,
    on_file: OnFile | None = None,
    on_step: OnStep | None = None,
    engine: DrawEngine | None = None,
) -> Report:
    """Report on any flat log: a folder of Parquet files, an Iceberg or a Delta table. See ``measure_dataset``."""
    step = on_step or _silent
    step("Reading footers")
    measured = Measured.read(schema, (table,), on_file)
    schema.require_columns(table.columns(measured.totals[table.name]), table.name)
    _require_columns(measured, columns, table.name)
    draw = None
    if baselines and (schema.sequence_columns or share is not None):
        step("Drawing users")
        totals = measured.totals[table.name]
        draw = draw_flat(table, totals, schema, share=share, budget_bytes=draw_bytes, engine=engine)
    return _report(measured, draw, None, baselines, columns, with_curves, step, table.name, None, "flat")


def _require_columns(measured: Measured, only: tuple[str, ...], subject: str) -> None:
    there = [name for totals in measured.totals.values() for name in totals.columns]
    for name in only:
        if name not in there:
            raise UnknownColumnError(f"the column {name} is not in {subject}", expected=known_names(name, there))


def _silent(_: str) -> None:
    return None


def _report(
    measured: Measured,
    draw: LogDraw | None,
    encoding: Encoding | None,
    layouts: tuple[BaselineLayout, ...],
    only: tuple[str, ...],
    with_curves: bool,
    step: OnStep,
    subject: str,
    version: int | None,
    layout: str,
) -> Report:
    stored = sum(t.size_bytes for t in measured.totals.values()) + sum(t.delete_bytes for t in measured.tables)
    factors: Mapping[str, Repetition] = {}
    found: tuple[Baseline, ...] = ()
    measured_curves: tuple[object, ...] = ()
    grain: tuple[UserGrain, ...] = ()
    if draw is not None:
        step("Counting repetitions")
        factors = repetition(draw)
        known = known_totals(measured)
        tuned = encoding or starting_encoding(draw)
        # A part of the log is carried to files as many as the log has now; all of it is counted as one.
        files = dict.fromkeys(_BY_USER, len(measured.tables[0].files)) if draw.share < 1 else None
        step("Looking for windows")
        plans = plan_histories(draw)
        estimates = estimate_layouts(
            draw, known, layouts=layouts, tuned=tuned, files=files, plans=plans,
            on_layout=lambda b: step(f"Writing baseline: {b.label}"),
        )  # fmt: skip
        found = _baselines(measured, estimates)
        step("Matching histories")
        grain = estimate_user_grain(draw, known, plans, estimates)
        if with_curves:
            step("Measuring curves")
            measured_curves = curves(draw, tuned)
    columns = [c for c in _columns(measured, factors, stored) if not only or c.column in only]
    dates = _parts(measured, measured.schema.event_time and "event_date")
    buckets = _parts(measured, "bucket")
    return Report.model_validate(
        {
            "subject": subject,
            "version": version,
            "layout": layout,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "dedup_factor": _dedup_factor(measured, draw),
            "stored_bytes": stored,
            "tables": tuple(_table(t, measured.totals[t.name]) for t in measured.tables),
            "columns": tuple(columns),
            "grains": _grains(columns),
            "dates": dates,
            "buckets": buckets,
            "skew": {name: _skew(parts) for name, parts in (("event_date", dates), ("bucket", buckets)) if parts},
            "sample": _draw_size(draw),
            "baselines": found,
            "curves": measured_curves,
            "user_grain": grain,
            "notes": tuple(_notes(measured, draw)),
        }
    )


def _draw_size(draw: LogDraw | None) -> DrawSize | None:
    if draw is None:
        return None
    return DrawSize(
        share=draw.share, users=draw.num_users, requests=draw.num_requests, impressions=draw.num_impressions
    )


def _notes(measured: Measured, draw: LogDraw | None) -> list[str]:
    deleted = sum(t.deleted_rows for t in measured.tables)
    notes = [_DELETES.format(rows=counted(deleted, "row"))] if deleted else []
    if not measured.schema.sequence_columns:
        notes.append(_NO_HISTORIES)
    return [*notes, _DRAWN.format(share=draw.share)] if draw is not None and draw.share < 1 else notes


def _dedup_factor(measured: Measured, draw: LogDraw | None) -> float | None:
    requests, impressions = measured.of_role(TableRole.REQUESTS), measured.of_role(TableRole.IMPRESSIONS)
    if requests is not None and impressions is not None and requests.rows:
        return impressions.rows / requests.rows
    return draw.num_impressions / draw.num_requests if draw is not None else None


def _table(table: TableFiles, totals: Totals) -> TableReport:
    return TableReport(
        name=table.name,
        role=table.role,
        files=totals.files,
        rows=totals.rows,
        row_groups=totals.row_groups,
        size_bytes=totals.size_bytes,
        column_bytes=totals.column_bytes,
        overhead_bytes=totals.overhead_bytes,
        delete_files=table.delete_files,
        delete_bytes=table.delete_bytes,
        deleted_rows=table.deleted_rows,
    )


def _columns(measured: Measured, factors: Mapping[str, Repetition], stored: int) -> list[ColumnReport]:
    grains, sequences = measured.schema.declared_grains(), set(measured.schema.sequence_columns)
    found = []
    for table in measured.tables:
        totals, pages = measured.totals[table.name], measured.pages[table.name]
        for name, column in totals.columns.items():
            kind = totals.arrow_schema.field(name).type
            seen = pages.get(name) or pages.get(name.split(".")[0])
            raw, known = raw_bytes(kind, column, totals.rows, seen)
            factor = factors.get(name)
            grain = grains.get(name)
            found.append(
                ColumnReport(
                    table=table.name,
                    column=name,
                    type=str(kind),
                    grain=grain.value if grain is not None else None,
                    sequence=name in sequences,
                    rows=totals.rows,
                    values=element_count(kind, column),
                    raw_bytes=raw,
                    raw_known=known,
                    encoded_bytes=column.encoded_bytes,
                    stored_bytes=column.stored_bytes,
                    ratio=raw / column.stored_bytes if column.stored_bytes else None,
                    share=column.stored_bytes / stored if stored else 0.0,
                    encodings=dict(seen.encodings if seen and seen.encodings else column.encodings),
                    codecs=dict(column.codecs),
                    page_bytes=seen.mean_bytes if seen else None,
                    largest_page_bytes=seen.largest_bytes if seen and seen.pages else None,
                    rows_per_run=factor.rows_per_run if factor else None,
                    rows_per_request_value=factor.rows_per_request_value if factor else None,
                    rows_per_user_value=factor.rows_per_user_value if factor else None,
                )
            )
    return sorted(found, key=lambda c: (not c.sequence, -c.stored_bytes, c.table, c.column))


def _grains(columns: list[ColumnReport]) -> tuple[PartReport, ...]:
    parts = []
    for grain in (Grain.REQUEST.value, Grain.IMPRESSION.value, None):
        of_grain = [c for c in columns if c.grain == grain]
        if of_grain:
            parts.append(
                PartReport(
                    value=grain or "system",
                    files=0,
                    rows=max(c.rows for c in of_grain),
                    stored_bytes=sum(c.stored_bytes for c in of_grain),
                    sequence_bytes=sum(c.stored_bytes for c in of_grain if c.sequence),
                )
            )
    return tuple(parts)


def _parts(measured: Measured, key: str | None) -> tuple[PartReport, ...]:
    sequences = measured.schema.sequence_columns
    sums: dict[str, list[int]] = {}
    for totals in measured.totals.values():
        for (name, value), part in totals.partitions.items():
            if name == key:
                of_sequences = sum(part.column_bytes.get(c, 0) for c in sequences)
                row = sums.setdefault(value, [0, 0, 0, 0])
                for i, n in enumerate((part.files, part.rows, part.size_bytes, of_sequences)):
                    row[i] += n
    ordered = sorted(sums.items(), key=lambda kv: (len(kv[0]), kv[0]))
    return tuple(
        PartReport(value=value, files=f, rows=r, stored_bytes=s, sequence_bytes=q) for value, (f, r, s, q) in ordered
    )


def _skew(parts: tuple[PartReport, ...]) -> float:
    return max(p.stored_bytes for p in parts) * len(parts) / max(1, sum(p.stored_bytes for p in parts))


def _baselines(measured: Measured, estimates: Mapping[BaselineLayout, LayoutEstimate]) -> tuple[Baseline, ...]:
    sequences = sum(
        totals.columns[c].stored_bytes
        for totals in measured.totals.values()
        for c in measured.schema.sequence_columns
        if c in totals.columns
    )
    total = sum(t.column_bytes for t in measured.totals.values())
    floor = BaselineLayout.FLOOR
    return tuple(
        Baseline(
            layout=layout.value,
            title=layout.label,
            sequences=_range(e.sequences),
            total=_range(e.total),
            columns={name: i.value for name, i in e.columns.items()},
            rough=e.rough,
            sequence_ratio=e.sequences.value / sequences if sequences else None,
            total_ratio=e.total.value / total if total and layout is not floor else None,
        )
        for layout, e in estimates.items()
    )


def _range(interval: Interval) -> Range:
    return Range(value=interval.value, low=interval.low, high=interval.high)
