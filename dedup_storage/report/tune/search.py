"""Which Parquet settings suit a table: tried on a draw, measured in stored bytes and decode time.

The rule: the smallest of the settings whose decode time is within a tolerance (10 %) of the fastest seen. Iceberg has
one page size, row-group size, zstd level and page version for a table, and a dictionary switch for each column. The
switch of a column touches no other column; the four table-wide settings are searched one coordinate at a time, from the
settings in use, then the neighbours of the choice. A change that saves less than 1 % of the table is not made, and a
column below 0.5 % of the table is not tried.

The search runs on one file of the draw; of a single file, all rows show page size and version, at a quick zstd level,
and a quarter of them the levels, which are what costs. Its best points alone are measured on all rows, and the rule
decides among these. A dictionary's other position is written at the start, and again only where it came near there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product

import pyarrow as pa

from dedup_storage.errors import InputError
from dedup_storage.report.parquet.counting import encode
from dedup_storage.report.parquet.encoding import Encoding, decode_seconds, write_buffer

__all__ = ["ColumnTrial", "Grid", "Point", "Trial", "Tuner", "choose"]

_MIB = 1024**2
# Clocks and other processes blur the time of small columns: differences below this decide nothing.
_SLACK_SECONDS = 0.001
_WORTH = 0.01
_TRIED_SHARE = 0.005
# The search's part of the rows, its finalists, and what counts as near: sizes within a quarter of each other.
_SCREEN_SHARE, _FINALISTS, _NEAR = 4, 2, 1.25
# Page sizes are told apart at this level or a lower one.
_QUICK_LEVEL = 3


@dataclass(frozen=True, order=True)
class Point:
    """The table-wide settings."""

    page_bytes: int
    row_group_bytes: int
    level: int
    page_version: int


@dataclass(frozen=True)
class Grid:
    """The values tried for each table-wide setting."""

    page_bytes: tuple[int, ...] = (1 * _MIB, 2 * _MIB, 4 * _MIB, 8 * _MIB, 16 * _MIB, 32 * _MIB)
    row_group_bytes: tuple[int, ...] = (16 * _MIB, 128 * _MIB, 512 * _MIB)
    level: tuple[int, ...] = (1, 3, 6, 9, 12)
    page_version: tuple[int, ...] = (1, 2)

    @classmethod
    def of_tables(cls, *, sets_level: bool) -> Grid:
        """What can be set on tables: some formats take the level and the page version from no table."""
        return cls() if sets_level else cls(level=(), page_version=())

    def points(self) -> Iterator[Point]:
        """Every combination."""
        for values in product(self.page_bytes, self.row_group_bytes, self.level, self.page_version):
            yield Point(*values)

    def line(self, point: Point, setting: str) -> list[Point]:
        """The points that differ from ``point`` in one setting alone."""
        values: tuple[int, ...] = getattr(self, setting)
        return [replace(point, **{setting: value}) for value in values if value != getattr(point, setting)]

    def neighbours(self, point: Point, setting: str) -> list[Point]:
        """The points whose value of one setting is next to that of ``point``."""
        here = getattr(point, setting)
        line = sorted(self.line(point, setting), key=lambda p: getattr(p, setting))
        below = [p for p in line if getattr(p, setting) < here]
        above = [p for p in line if getattr(p, setting) > here]
        return [*below[-1:], *above[:1]]


@dataclass(frozen=True)
class ColumnTrial:
    """One column written with one setting."""

    dictionary: bool
    stored_bytes: int
    decode_seconds: float


@dataclass(frozen=True)
class Trial:
    """All columns written at one point, each with the better position of its dictionary switch.

    Attributes:
        others: The other position, where it was written.
    """

    point: Point
    columns: Mapping[str, ColumnTrial]
    others: Mapping[str, ColumnTrial]

    @property
    def stored_bytes(self) -> int:
        """Stored bytes of all columns."""
        return sum(c.stored_bytes for c in self.columns.values())

    @property
    def decode_seconds(self) -> float:
        """Decode time of all columns."""
        return sum(c.decode_seconds for c in self.columns.values())


def choose(options: list[tuple[int, float]], tolerance: float, slack_seconds: float = 0.0) -> int:
    """The rule: index of the smallest option that decodes within ``tolerance`` of the fastest.

    Args:
        options: (stored bytes, decode seconds) of each.
        tolerance: 0.1 for 10 %.
        slack_seconds: Differences below it do not count.
    """
    limit = min(seconds for _, seconds in options) * (1 + tolerance) + slack_seconds
    allowed = [i for i, (_, seconds) in enumerate(options) if seconds <= limit]
    return min(allowed, key=lambda i: (options[i][0], options[i][1], i))


@dataclass
class Tuner:
    """Tries settings on the rows of one table.

    Attributes:
        tables: Drawn rows in stored order, each table as large as one file: a dictionary's width
            follows from the values of a file, and where it is no whole number of bytes, shifted copies are not found.
        start: The encoding in use.
        grid: What is tried.
        tolerance: Of the rule.
        rounds: Rounds of each decode; the fastest counts.
        on_trial: Called with the number of points tried, for progress.
        both: Write both positions of every dictionary switch; else the worse one only where it came near at the start.
        trials: Point -> what it came to on all rows.
        screened: Point -> what it came to on the search's part of the rows.
        seconds: Processor time spent on trials so far.
    """

    tables: Sequence[pa.Table]
    start: Encoding
    grid: Grid = field(default_factory=Grid)
    tolerance: float = 0.10
    rounds: int = 3
    on_trial: Callable[[int], None] | None = None
    trials: dict[Point, Trial] = field(default_factory=dict)
    screened: dict[Point, Trial] = field(default_factory=dict)
    seconds: float = 0.0
    both: bool = True
    _columns: dict[tuple[str, Point, int | None, bool], ColumnTrial] = field(default_factory=dict)
    _written: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tables = [table.combine_chunks() for table in self.tables if table.num_rows]
        if not self.tables:
            raise InputError("the draw has no rows to tune on")

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.num_rows for table in self.tables)

    @property
    def start_point(self) -> Point:
        """The table-wide settings in use."""
        start = self.start
        return Point(start.page_bytes, start.row_group_bytes, start.level, start.page_version)

    def trial(self, point: Point) -> Trial:
        """Measure one point, or recall it."""
        if point not in self.trials:
            columns, others = {}, {}
            for name in self._tried():
                pair = [self._column(name, point, on) for on in self._switch(name)]
                best = choose([(t.stored_bytes, t.decode_seconds) for t in pair], self.tolerance, _SLACK_SECONDS)
                if pair[0].stored_bytes - pair[best].stored_bytes < _WORTH * self._draw_bytes():
                    best = 0
                columns[name] = pair[best]
                if len(pair) > 1:
                    others[name] = pair[1 - best]
            self.trials[point] = Trial(point, columns, others)
            if self.on_trial is not None:
                self.on_trial(len(self.trials))
        return self.trials[point]

    def _switch(self, name: str) -> tuple[bool, ...]:
        """Positions of a column's dictionary switch to write, the one in use first."""
        on = self.start.uses_dictionary(name)
        first = self.trials.get(self.start_point)
        if self.both or first is None or name not in first.others:
            return on, not on
        chosen, other = first.columns[name], first.others[name]
        if chosen.dictionary is on and other.stored_bytes > _NEAR * chosen.stored_bytes:
            return (on,)
        return on, not on

    def _tried(self) -> list[str]:
        least = _TRIED_SHARE * self._draw_bytes()
        return [name for name, size in self._start_columns().items() if size >= least]

    def _start_columns(self) -> Mapping[str, int]:
        """Stored bytes of each column with the encoding in use, all columns written together."""
        if not self._written:
            before = time.process_time()
            for table in self.tables:
                for name, size in encode(table.to_batches(), table.schema, self.start).columns.items():
                    self._written[name] = self._written.get(name, 0) + size
            self.seconds += time.process_time() - before
        return self._written

    def _draw_bytes(self) -> int:
        return max(1, sum(self._start_columns().values()))

    def _column(self, name: str, point: Point, dictionary: bool) -> ColumnTrial:
        rows = self._rows_per_group(point)
        key = (name, replace(point, row_group_bytes=0), rows, dictionary)
        if key not in self._columns:
            encoding = replace(
                self.start, page_bytes=point.page_bytes, level=point.level, page_version=point.page_version,
                dictionary=dictionary, columns={},
            )  # fmt: skip
            before = time.process_time()
            size, seconds = 0, 0.0
            for table in self.tables:
                stored, buffer = write_buffer(table.select([name]), encoding, rows_per_group=rows)
                size += stored
                seconds += decode_seconds(buffer, rounds=self.rounds)
            self._columns[key] = ColumnTrial(dictionary, size, seconds)
            self.seconds += time.process_time() - before
        return self._columns[key]

    def _rows_per_group(self, point: Point) -> int | None:
        """Rows of a row group of the point's size; ``None`` when every table fits into one."""
        rows = int(point.row_group_bytes * self.rows / self._draw_bytes())
        return max(1, rows) if rows < max(table.num_rows for table in self.tables) else None

    def best(self) -> Trial:
        """The rule's choice among the points tried so far; of those within 1 % the one that changes least."""
        start = self.trial(self.start_point)
        trials = list(self.trials.values())
        limit = min(t.decode_seconds for t in trials) * (1 + self.tolerance) + _SLACK_SECONDS
        allowed = [t for t in trials if t.decode_seconds <= limit]
        enough = min(t.stored_bytes for t in allowed) + _WORTH * self._draw_bytes()
        good = [t for t in allowed if t.stored_bytes <= enough]
        return min(good, key=lambda t: (_changed(t.point, start.point), t.stored_bytes, t.point))

    def search(self) -> Trial:
        """Search on a part of the rows, measure the best points on all of them, and give the choice."""
        self.both = False
        if len(self.tables) > 1:
            screen = self._part(list(self.tables[: max(1, len(self.tables) // _SCREEN_SHARE)]))
            screen._walk()
        else:
            quick = replace(self.start_point, level=min(self.start_point.level, _QUICK_LEVEL))
            self.trial(quick)
            for setting in ("page_bytes", "page_version", "row_group_bytes"):
                for point in self.grid.line(replace(self.best().point, level=quick.level), setting):
                    self.trial(point)
            screen = self._part([self.tables[0].slice(0, max(1, self.rows // _SCREEN_SHARE))])
            screen.trial(self.best().point)
            for point in self.grid.line(self.best().point, "level"):
                screen.trial(point)
        self.screened = screen.trials
        finalists = screen._finalists()
        self.trial(self.start_point)
        for point in finalists:
            self.trial(point)
        self.seconds += screen.seconds
        return self.best()

    def _walk(self) -> None:
        """One setting at a time, then once more beside the choice."""
        self.trial(self.start_point)
        for setting in ("page_bytes", "level", "page_version", "row_group_bytes"):
            for point in self.grid.line(self.best().point, setting):
                self.trial(point)
        for setting in ("page_bytes", "level"):
            for point in self.grid.neighbours(self.best().point, setting):
                self.trial(point)

    def _part(self, tables: list[pa.Table]) -> Tuner:
        return Tuner(tables, self.start, self.grid, self.tolerance, rounds=2, on_trial=self.on_trial, both=False)

    def _finalists(self) -> list[Point]:
        """The choice, and the smallest of what decodes in about the time that the rule allows."""
        limit = min(t.decode_seconds for t in self.trials.values()) * (1 + 2 * self.tolerance) + _SLACK_SECONDS
        quick = [t for t in self.trials.values() if t.decode_seconds <= limit]
        start = self.start_point
        quick.sort(key=lambda t: (t.stored_bytes, _changed(t.point, start), t.point))
        # Of points that come to the same bytes, as larger pages than a file has, the one that changes least.
        apart = {t.stored_bytes: t.point for t in reversed([self.best(), *quick])}
        chosen = [self.best().point, *(t.point for t in quick if apart[t.stored_bytes] == t.point)]
        return list(dict.fromkeys(chosen))[:_FINALISTS]

    def exhaustive(self) -> Trial:
        """Measure the whole grid and give the choice: what ``search`` is judged by."""
        self.both = True
        self.trial(self.start_point)
        for point in self.grid.points():
            self.trial(point)
        return self.best()

    def encoding(self, trial: Trial) -> Encoding:
        """The encoding of a choice."""
        switches = {
            name: chosen.dictionary
            for name, chosen in trial.columns.items()
            if chosen.dictionary is not self.start.uses_dictionary(name)
        }
        point = trial.point
        return replace(
            self.start, page_bytes=point.page_bytes, row_group_bytes=point.row_group_bytes, level=point.level,
            page_version=point.page_version, columns={**self.start.columns, **switches},
        )  # fmt: skip


def _changed(point: Point, start: Point) -> int:
    """Number of settings in which two points differ."""
    return sum(getattr(point, f.name) != getattr(start, f.name) for f in fields(Point))
