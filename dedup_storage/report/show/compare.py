"""What did the change do? Two reports side by side, and whether anything grew beyond a threshold."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from rich.table import Table
from rich.text import Text

from dedup_storage.errors import DedupStorageError, UsageError
from dedup_storage.report.model import Report
from dedup_storage.words import human_bytes

__all__ = ["Change", "Comparison", "RegressionError", "compare", "comparison_table"]


class RegressionError(DedupStorageError):
    """Stored bytes grew beyond the threshold; exit status 1, so that a schedule can alert."""


class Change(BaseModel):
    """One column, or the whole, before and after.

    Attributes:
        column: ``None`` for all files together.
        before_bytes, after_bytes: Stored bytes.
        before_per_row, after_per_row: Stored bytes a row of its table: a log that grows is no regression.
        growth: after_per_row / before_per_row - 1; ``None`` where there was nothing before.
        regressed: Grew by more than the threshold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str | None
    before_bytes: int
    after_bytes: int
    before_per_row: float
    after_per_row: float
    growth: float | None
    regressed: bool


class Comparison(BaseModel):
    """Two reports compared.

    Attributes:
        threshold: Growth per row that counts as a regression.
        changes: The whole first, then columns, largest growth in bytes first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: str
    after: str
    threshold: float
    changes: tuple[Change, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """What grew beyond the threshold."""
        return tuple(c for c in self.changes if c.regressed)

    def raise_on_regression(self) -> None:
        """Raise when anything grew beyond the threshold.

        Raises:
            RegressionError: names what grew most.
        """
        if self.regressions:
            worst = max(self.regressions, key=lambda c: c.growth or 0.0)
            raise RegressionError(
                f"{worst.column or 'the whole dataset'} needs more bytes a row than before",
                expected=f"at most {self.threshold:.1%} more",
                got=f"{worst.growth or 0.0:.1%} more ({len(self.regressions)} beyond the threshold)",
                fix="Compare the encodings and the sort order of the two versions; dedup-storage maintain restores it.",
            )


def compare(before: Report, after: Report, *, threshold: float = 0.05) -> Comparison:
    """Compare two reports, of two versions, two datasets, or two dates.

    A column counts over all tables that hold it, divided by the flat log's rows. Columns below 0.5 % of the stored
    bytes are shown and never count as regressions.

    Raises:
        UsageError: the threshold is negative.
    """
    if threshold < 0:
        raise UsageError("the regression threshold is negative", expected="0.05 for 5 %", got=str(threshold))
    first, second = _columns(before), _columns(after)
    rows = _rows(before), _rows(after)
    whole = _change(None, before.stored_bytes, after.stored_bytes, rows, threshold, counts=True)
    least = 0.005 * max(1, after.stored_bytes)
    columns = [
        _change(name, first.get(name, 0), second.get(name, 0), rows, threshold, counts=second.get(name, 0) >= least)
        for name in dict.fromkeys([*first, *second])
    ]
    columns.sort(key=lambda c: c.before_bytes - c.after_bytes)
    return Comparison(before=_name(before), after=_name(after), threshold=threshold, changes=(whole, *columns))


def _name(report: Report) -> str:
    return report.subject if report.version is None else f"{report.subject} v{report.version}"


def _rows(report: Report) -> int:
    """Rows of the flat log: of the table with most of them, feature groups of requests never exceed it."""
    return max((t.rows - t.deleted_rows for t in report.tables), default=0)


def _columns(report: Report) -> dict[str, int]:
    sums: dict[str, int] = {}
    for column in report.columns:
        sums[column.column] = sums.get(column.column, 0) + column.stored_bytes
    return sums


def _change(
    column: str | None, before: int, after: int, rows: tuple[int, int], threshold: float, *, counts: bool
) -> Change:
    then, now = before / max(1, rows[0]), after / max(1, rows[1])
    growth = now / then - 1 if then else None
    return Change(
        column=column,
        before_bytes=before,
        after_bytes=after,
        before_per_row=then,
        after_per_row=now,
        growth=growth,
        regressed=counts and growth is not None and growth > threshold,
    )


def comparison_table(comparison: Comparison) -> Table:
    """The comparison for a terminal."""
    # Names are texts as they stand: in whatever console this is printed, brackets in them are no markup.
    title = Text(f"{comparison.before} -> {comparison.after}")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("column")
    for heading in ("before", "after", "before / row", "after / row", "change / row"):
        table.add_column(heading, justify="right")
    for c in comparison.changes:
        change = "new" if c.growth is None else f"{c.growth:+.1%}" + (" !" if c.regressed else "")
        table.add_row(
            Text(c.column or "all files"),
            human_bytes(c.before_bytes),
            human_bytes(c.after_bytes),
            f"{c.before_per_row:.2f} B",
            f"{c.after_per_row:.2f} B",
            change,
        )
    return table
