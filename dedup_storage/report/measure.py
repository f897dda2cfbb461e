"""Building the report: footers for what is stored, a draw of whole users for what repeats and what else could be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from dedup_storage.errors import UnknownColumnError, UsageError, known_names
from dedup_storage.layout import EventGroup, TableRole
from dedup_storage.report.draw.dataset import draw_dataset
from dedup_storage.report.draw.named import NamedUsers
from dedup_storage.report.draw.repetition import Repetition, repetition
from dedup_storage.report.draw.select import DRAW_BYTES, DrawEngine, draw_flat, refuse_idle_budget
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.estimate.baselines import ALL_LAYOUTS, BaselineLayout, starting_encoding
from dedup_storage.report.estimate.curves import curves
from dedup_storage.report.estimate.known import known_totals
from dedup_storage.report.estimate.layouts import LayoutEstimate, estimate_layouts
from dedup_storage.report.estimate.ranges import as_range
from dedup_storage.report.estimate.user_grain import estimate_user_grain
from dedup_storage.report.estimate.user_layout import plan_histories
from dedup_storage.report.model import Baseline, DrawSize, Report, UserGrain
from dedup_storage.report.parquet.encoding import Encoding
from dedup_storage.report.parquet.footers import OnFile
from dedup_storage.report.parquet.measured import Measured
from dedup_storage.report.parquet.tables import DatasetFiles, TableFiles
from dedup_storage.report.stored import column_reports, grain_parts, parts_by, skew, table_report
from dedup_storage.report.user_lists import user_lists
from dedup_storage.schema import LogSchema
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
_EPOCHS = "Events belong to no event date: they count in buckets alone."
_DELETES = (
    "Deletion vectors mark {rows} as deleted, of which the bytes are still stored and counted, in other layouts too; "
    "dedup-storage maintain takes them out."
)


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
        UsageError: a share or a sample, and no layout to measure it for.
    """
    if not baselines and (share is not None or named is not None):
        raise UsageError(
            "a part of the users is named, and nothing is measured of it", expected="layouts to compare with",
            fix="Leave out the share or the sample, or name baselines.",
        )  # fmt: skip
    refuse_idle_budget(share, draw_bytes, named=named is not None)
    step = on_step or _silent
    step("Reading footers")
    runs = dataset.spec.runs_columns
    measured = Measured.read(dataset.spec.schema_, dataset.tables, on_file, runs=runs)
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
        dataset.spec.layout.value, dataset.spec.event_date_column, dataset.spec.events,
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
    refuse_idle_budget(share, draw_bytes)
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
    return _report(measured, draw, None, baselines, columns, with_curves, step, table.name, None, "flat", "event_date")


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
    date: str | None,
    groups: Sequence[EventGroup] = (),
) -> Report:
    stored = sum(t.size_bytes for t in measured.totals.values()) + sum(t.delete_bytes for t in measured.tables)
    factors: Mapping[str, Repetition] = {}
    found: tuple[Baseline, ...] = ()
    measured_curves: tuple[object, ...] = ()
    grain: tuple[UserGrain, ...] = ()
    estimates: Mapping[BaselineLayout, LayoutEstimate] = {}
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
    columns = [c for c in column_reports(measured, factors, stored) if not only or c.column in only]
    dates = parts_by(measured, measured.schema.event_time and date)
    buckets = parts_by(measured, "bucket")
    return Report.model_validate(
        {
            "subject": subject,
            "version": version,
            "layout": layout,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "dedup_factor": _dedup_factor(measured, draw),
            "stored_bytes": stored,
            "tables": tuple(table_report(t, measured.totals[t.name]) for t in measured.tables),
            "columns": tuple(columns),
            "grains": grain_parts(columns),
            "dates": dates,
            "buckets": buckets,
            "skew": {name: skew(parts) for name, parts in (("event_date", dates), ("bucket", buckets)) if parts},
            "sample": _draw_size(draw),
            "baselines": found,
            "curves": measured_curves,
            "user_lists": tuple(user_lists(measured, group, estimates) for group in groups),
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
    if any(t.role == TableRole.EVENTS.value for t in measured.tables):
        notes.append(_EPOCHS)
    if not measured.schema.sequence_columns:
        notes.append(_NO_HISTORIES)
    return [*notes, _DRAWN.format(share=draw.share)] if draw is not None and draw.share < 1 else notes


def _dedup_factor(measured: Measured, draw: LogDraw | None) -> float | None:
    requests, impressions = (_live(measured, role) for role in (TableRole.REQUESTS, TableRole.IMPRESSIONS))
    if requests and impressions is not None:
        return impressions / requests
    return draw.num_impressions / draw.num_requests if draw is not None else None


def _live(measured: Measured, role: TableRole) -> int | None:
    """Rows of the table of a role that no deletion vector hides; ``None`` where there is no such table."""
    table = next((t for t in measured.tables if t.role == role.value), None)
    return None if table is None else measured.totals[table.name].rows - table.deleted_rows


def _baselines(measured: Measured, estimates: Mapping[BaselineLayout, LayoutEstimate]) -> tuple[Baseline, ...]:
    sequences = measured.history_bytes()
    total = sum(t.column_bytes for t in measured.totals.values())
    floor = BaselineLayout.FLOOR
    return tuple(
        Baseline(
            layout=layout.value,
            title=layout.label,
            sequences=as_range(e.sequences),
            total=as_range(e.total),
            columns={name: i.value for name, i in e.columns.items()},
            rough=e.rough,
            sequence_ratio=e.sequences.value / sequences if sequences else None,
            total_ratio=e.total.value / total if total and layout is not floor else None,
        )
        for layout, e in estimates.items()
    )
