"""Building the report: footers for what is stored, a sample of whole users for what repeats and what else could be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from dedup_storage.errors import InputError, UnknownColumnError, known_names
from dedup_storage.layout import TableRole
from dedup_storage.report.draw.named import NamedUsers
from dedup_storage.report.draw.repetition import Repetition, repetition
from dedup_storage.report.draw.select import SAMPLE_BYTES, Draw, sample_dataset, sample_flat
from dedup_storage.report.draw.users import LogSample
from dedup_storage.report.estimate.baselines import ALL_LAYOUTS, BaselineLayout, starting_encoding
from dedup_storage.report.estimate.curves import curves
from dedup_storage.report.estimate.intervals import Interval
from dedup_storage.report.estimate.layouts import KnownTotals, LayoutEstimate, estimate_layouts, is_list
from dedup_storage.report.model import Baseline, ColumnReport, PartReport, Range, Report, Sampled, TableReport
from dedup_storage.report.parquet.dataset_files import DatasetFiles, TableFiles
from dedup_storage.report.parquet.encoding import Encoding
from dedup_storage.report.parquet.footers import OnFile, Totals
from dedup_storage.report.parquet.pages import ColumnPages, read_pages
from dedup_storage.report.parquet.raw_bytes import element_count, raw_bytes
from dedup_storage.report.show.summary import read_totals
from dedup_storage.schema import Grain, LogSchema

__all__ = ["Measured", "known_totals", "measure_dataset", "measure_log"]

OnStep = Callable[[str], None]
_SAMPLED = "Dedup factors come from {share:.2%} of the users, baselines are estimates with their 95 % interval."
# Layouts whose files hold whole users.
_BY_USER = (BaselineLayout.FLAT_SORTED, BaselineLayout.FLAT_SORTED_TUNED, BaselineLayout.SPLIT)
_DELETES = "Deletion vectors mark {rows} rows as deleted; their bytes are still stored and counted."


@dataclass(frozen=True)
class Measured:
    """What footers and pages say of the tables of one log.

    Attributes:
        schema: Meaning of the columns.
        tables: Its tables.
        totals: Table name -> sums over footers.
        pages: Table name -> column -> page facts.
    """

    schema: LogSchema
    tables: tuple[TableFiles, ...]
    totals: Mapping[str, Totals]
    pages: Mapping[str, Mapping[str, ColumnPages]]

    @classmethod
    def read(cls, schema: LogSchema, tables: tuple[TableFiles, ...], on_file: OnFile | None = None) -> Measured:
        """Read all footers and the pages of a few files.

        Raises:
            StorageError: names a file that cannot be read.
            InputError: there is not one row.
        """
        totals = {t.name: read_totals(t, on_file) for t in tables}
        if not any(t.rows for t in totals.values()):
            names = ", ".join(t.name for t in tables)
            raise InputError(f"there are no rows in {names}", expected="at least one row to report on")
        pages = {t.name: read_pages(t.files, resolve=t.resolve) for t in tables}
        return cls(schema, tables, totals, pages)


def measure_dataset(
    dataset: DatasetFiles,
    *,
    baselines: tuple[BaselineLayout, ...] = ALL_LAYOUTS,
    share: float | None = None,
    sample_bytes: int = SAMPLE_BYTES,
    columns: tuple[str, ...] = (),
    with_curves: bool = True,
    on_file: OnFile | None = None,
    on_step: OnStep | None = None,
    draw: Draw | None = None,
    named: NamedUsers | None = None,
) -> Report:
    """Report on a version of a dataset.

    Args:
        dataset: Its files.
        baselines: Layouts to compare with; none leaves out everything that reads data.
        share: Share of the users for baselines; ``None`` fits ``sample_bytes``.
        sample_bytes: Raw bytes of the sample as a flat log.
        columns: Report on these alone; all when empty.
        with_curves: Also measure the ratio against sequence length and candidates.
        on_file, on_step: Progress: footers read; what is being done.
        draw: Draws the sample's rows, where there is too much to read here.
        named: The users of a named sample, in place of a share (``report.named.named_users``).

    Raises:
        UnknownColumnError: a column that no table has.
        StorageError: names a file that cannot be read.
        InputError, SchemaError: no rows, or no sequence columns.
    """
    step = on_step or _silent
    step("Reading footers")
    measured = Measured.read(dataset.spec.schema_, dataset.tables, on_file)
    _require_columns(measured, columns, dataset.spec.name)
    sample = None
    if baselines:
        step("Sampling users")
        sample = sample_dataset(dataset, dict(measured.totals), share=share, budget_bytes=sample_bytes, draw=draw,
                                named=named)  # fmt: skip
    encoding = Encoding.from_properties(dataset.tables[0].properties)
    return _report(
        measured, sample, encoding, baselines, columns, with_curves, step, dataset.spec.name, dataset.version,
        dataset.spec.layout.value,
    )  # fmt: skip


def measure_log(
    table: TableFiles,
    schema: LogSchema,
    *,
    baselines: tuple[BaselineLayout, ...] = ALL_LAYOUTS,
    share: float | None = None,
    sample_bytes: int = SAMPLE_BYTES,
    columns: tuple[str, ...] = (),
    with_curves: bool = True,
    on_file: OnFile | None = None,
    on_step: OnStep | None = None,
    draw: Draw | None = None,
) -> Report:
    """Report on any flat log: a folder of Parquet files, an Iceberg or a Delta table. See ``measure_dataset``."""
    step = on_step or _silent
    step("Reading footers")
    measured = Measured.read(schema, (table,), on_file)
    schema.require_columns(table.columns(measured.totals[table.name]), table.name)
    _require_columns(measured, columns, table.name)
    sample = None
    if baselines:
        step("Sampling users")
        totals = measured.totals[table.name]
        sample = sample_flat(table, totals, schema, share=share, budget_bytes=sample_bytes, draw=draw)
    return _report(measured, sample, None, baselines, columns, with_curves, step, table.name, None, "flat")


def _require_columns(measured: Measured, only: tuple[str, ...], subject: str) -> None:
    there = [name for totals in measured.totals.values() for name in totals.columns]
    for name in only:
        if name not in there:
            raise UnknownColumnError(f"the column {name} is not in {subject}", expected=known_names(name, there))


def _silent(_: str) -> None:
    return None


def _report(
    measured: Measured,
    sample: LogSample | None,
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
    drawn: tuple[object, ...] = ()
    if sample is not None:
        step("Counting repetitions")
        factors = repetition(sample)
        known = known_totals(measured)
        tuned = encoding or starting_encoding(sample)
        # A part of the log is carried to files as many as the log has now; all of it is counted as one.
        files = dict.fromkeys(_BY_USER, len(measured.tables[0].files)) if sample.share < 1 else None
        estimates = estimate_layouts(
            sample, known, layouts=layouts, tuned=tuned, files=files,
            on_layout=lambda b: step(f"Writing baseline: {b.label}"),
        )  # fmt: skip
        found = _baselines(measured, estimates)
        if with_curves:
            step("Measuring curves")
            drawn = curves(sample, tuned)
    columns = [c for c in _columns(measured, factors, stored) if not only or c.column in only]
    dates = _parts(measured, measured.schema.event_time and "event_date")
    buckets = _parts(measured, "bucket")
    return Report.model_validate(
        {
            "subject": subject,
            "version": version,
            "layout": layout,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "dedup_factor": _dedup_factor(measured, sample),
            "stored_bytes": stored,
            "tables": tuple(_table(t, measured.totals[t.name]) for t in measured.tables),
            "columns": tuple(columns),
            "grains": _grains(columns),
            "dates": dates,
            "buckets": buckets,
            "skew": {name: _skew(parts) for name, parts in (("event_date", dates), ("bucket", buckets)) if parts},
            "sample": _sampled(sample),
            "baselines": found,
            "curves": drawn,
            "notes": tuple(_notes(measured, sample)),
        }
    )


def _sampled(sample: LogSample | None) -> Sampled | None:
    if sample is None:
        return None
    return Sampled(
        share=sample.share, users=sample.num_users, requests=sample.num_requests, impressions=sample.num_impressions
    )


def _notes(measured: Measured, sample: LogSample | None) -> list[str]:
    deleted = sum(t.deleted_rows for t in measured.tables)
    notes = [_DELETES.format(rows=deleted)] if deleted else []
    return [*notes, _SAMPLED.format(share=sample.share)] if sample is not None and sample.share < 1 else notes


def _by_role(measured: Measured, role: TableRole) -> Totals | None:
    return next((measured.totals[t.name] for t in measured.tables if t.role == role.value), None)


def known_totals(measured: Measured) -> KnownTotals:
    """What the footers say about the whole log, for estimates."""
    requests, impressions = _by_role(measured, TableRole.REQUESTS), _by_role(measured, TableRole.IMPRESSIONS)
    flat = _by_role(measured, TableRole.LOGS)
    anchor = requests if requests is not None else flat
    if anchor is None:
        raise InputError("the tables hold no log", expected="a requests and an impressions table, or a logs table")
    elements = {f.name: element_count(f.type, anchor.columns[f.name]) for f in anchor.arrow_schema if is_list(f.type)}
    rows = impressions.rows if impressions is not None else anchor.rows
    return KnownTotals(rows, requests.rows if requests is not None else None, elements, requests is not None)


def _dedup_factor(measured: Measured, sample: LogSample | None) -> float | None:
    requests, impressions = _by_role(measured, TableRole.REQUESTS), _by_role(measured, TableRole.IMPRESSIONS)
    if requests is not None and impressions is not None and requests.rows:
        return impressions.rows / requests.rows
    return sample.num_impressions / sample.num_requests if sample is not None else None


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
        mine = [c for c in columns if c.grain == grain]
        if mine:
            parts.append(
                PartReport(
                    value=grain or "system",
                    files=0,
                    rows=max(c.rows for c in mine),
                    stored_bytes=sum(c.stored_bytes for c in mine),
                    sequence_bytes=sum(c.stored_bytes for c in mine if c.sequence),
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
