"""The report for a terminal (rich) and for a pull request (Markdown)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dedup_storage.report.model import Baseline, ColumnReport, Report
from dedup_storage.report.show.cells import span, times
from dedup_storage.report.show.user_grain import grain_rows, grain_title, verdicts
from dedup_storage.report.show.user_lists import LISTS_TITLE, list_rows
from dedup_storage.words import human_bytes

__all__ = ["LEFT_HEADINGS", "column_rows", "headline", "markdown", "terminal", "titled_tables"]

_COLUMN_HEADINGS = (
    "column", "table", "rows", "raw", "encoded", "stored", "raw / stored", "share", "rows / run",
    "rows / value in request", "rows / value in user", "page", "encodings",
)  # fmt: skip
_BASELINE_HEADINGS = ("stored as", "sequence columns", "times what is stored", "all columns", "times what is stored")
LEFT_HEADINGS = ("column", "table", "encodings", "stored as", "bucket", "event date", "sequence group")


def headline(report: Report) -> str:
    """The report in one sentence."""
    version = f", version {report.version}" if report.version is not None else ""
    text = f"{report.subject}{version}: {human_bytes(report.stored_bytes)} stored, {report.layout} layout"
    if report.dedup_factor is not None:
        text += f", {report.dedup_factor:.1f} impressions a request"
    largest = max(report.baselines, key=lambda b: b.sequences.value, default=None)
    if largest is not None and largest.sequence_ratio is not None and largest.sequence_ratio > 1:
        about = "about " if largest.rough else ""
        text += f"; its sequence columns would need {about}{times(largest.sequence_ratio)} as much {largest.title}"
    once = sum(g.stored_bytes for g in report.user_lists)
    lists = [g.request_lists.value for g in report.user_lists if g.request_lists is not None]
    if once and lists:
        text += f"; a list for each request would take {times(sum(lists) / once)} what its users' lists take"
    return text + "."


def column_rows(report: Report) -> list[tuple[str, ...]]:
    """The cells of the column table."""
    return [_column(c) for c in report.columns]


def _column(column: ColumnReport) -> tuple[str, ...]:
    raw = human_bytes(column.raw_bytes)
    return (
        f"{column.column} *" if column.sequence else column.column,
        column.table.rsplit("/", 1)[-1],
        f"{column.rows:,}",
        raw if column.raw_known else f"at least {raw}",
        human_bytes(column.encoded_bytes),
        human_bytes(column.stored_bytes),
        times(column.ratio),
        f"{column.share:.1%}",
        times(column.rows_per_run),
        times(column.rows_per_request_value),
        times(column.rows_per_user_value),
        human_bytes(column.page_bytes) if column.page_bytes is not None else "-",
        ", ".join(sorted(column.encodings)),
    )


def baseline_rows(report: Report) -> list[tuple[str, ...]]:
    """The cells of the baseline table."""
    return [_baseline(b) for b in report.baselines]


def _baseline(baseline: Baseline) -> tuple[str, ...]:
    floor = baseline.total_ratio is None
    return (
        baseline.title,
        span(baseline.sequences, baseline.rough),
        times(baseline.sequence_ratio),
        "-" if floor else span(baseline.total, baseline.rough),
        times(baseline.total_ratio),
    )


def _stored_row(report: Report) -> tuple[str, ...]:
    total = sum(t.column_bytes for t in report.tables)
    return ("as it is stored now", human_bytes(report.sequence_bytes), "1", human_bytes(total), "1")


def titled_tables(report: Report) -> Iterable[tuple[str, Sequence[str], list[tuple[str, ...]]]]:
    """(title, headings, rows) of every table of the report."""
    yield "Columns (* sequence)", _COLUMN_HEADINGS, column_rows(report)
    rows: list[tuple[str, ...]] = [
        (t.name.rsplit("/", 1)[-1], f"{t.files:,}", f"{t.rows:,}", human_bytes(t.column_bytes),
         human_bytes(t.overhead_bytes), human_bytes(t.delete_bytes))
        for t in report.tables
    ]  # fmt: skip
    yield "Tables", ("table", "files", "rows", "columns", "footers and indexes", "delete files"), rows
    if report.baselines:
        yield "The same rows stored otherwise", _BASELINE_HEADINGS, [_stored_row(report), *baseline_rows(report)]
    if report.user_lists:
        yield LISTS_TITLE, ("sequence group", *(g.group for g in report.user_lists)), list_rows(report.user_lists)
    if report.user_grain:
        title = grain_title(report.layout)
        yield title, ("sequence group", *(g.group for g in report.user_grain)), grain_rows(report.user_grain)
    for name, parts in (("bucket", report.buckets), ("event date", report.dates)):
        if len(parts) > 1:
            largest = sorted(parts, key=lambda p: -p.stored_bytes)[:8]
            rows = [(p.value, f"{p.files:,}", f"{p.rows:,}", human_bytes(p.stored_bytes)) for p in largest]
            skew = report.skew.get(name.replace(" ", "_"), 1.0)
            yield f"Largest by {name} (largest / mean {skew:.2f})", (name, "files", "rows", "stored"), rows


def terminal(report: Report) -> Group:
    """The report for a rich console."""
    parts: list[Text | Table] = [Text(headline(report))]
    for title, headings, rows in titled_tables(report):
        table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
        for heading in headings:
            left = heading in LEFT_HEADINGS
            table.add_column(Text(heading), justify="left" if left else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        parts += [Text(), table]
    said = [*verdicts(report.user_grain), *report.notes]
    parts += [Text(note) for note in said]
    return Group(*parts)


def markdown(report: Report) -> str:
    """The report for a pull request."""
    lines = [f"## Compression of {_escape(report.subject)}", "", _escape(headline(report))]
    for title, headings, rows in titled_tables(report):
        lines += ["", f"### {_escape(title)}", "", "| " + " | ".join(map(_escape, headings)) + " |"]
        lines.append("|" + "|".join(" --- " if h in LEFT_HEADINGS else " ---: " for h in headings) + "|")
        lines += ["| " + " | ".join(_escape(cell) for cell in row) + " |" for row in rows]
    for note in (*verdicts(report.user_grain), *report.notes):
        lines += ["", _escape(note)]
    return "\n".join(lines).rstrip() + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;")
