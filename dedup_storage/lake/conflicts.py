"""Which runs get in each other's way, as a decision table. Pure.

A published version says of itself, in its facts, what it changed; a run that is about to publish knows what it
replaces. The first row of ``DECISIONS`` that fits both decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dedup_storage.lake.segments import ANY, MAINTAIN, Segment, date_part, decode_segments
from dedup_storage.schema import DateGrain

__all__ = ["DECISIONS", "Decision", "decide", "overlap"]


@dataclass(frozen=True)
class _Version:
    """What a published version says of itself.

    Attributes:
        tables: Tables whose rows it changed; ``None`` when it does not say.
        dates: Date parts of the rows it changed; ``None`` for any.
        names_no_date: It says that it names no date.
        segments: Segments it changed, by table; ``None`` when it does not say.
        mode: How it came about.
    """

    tables: frozenset[str] | None
    dates: frozenset[str] | None
    names_no_date: bool
    segments: Mapping[str, frozenset[Segment] | None] | None
    mode: str

    @classmethod
    def of(cls, facts: Mapping[str, str], grain: DateGrain) -> _Version:
        dates = facts.get("dates", ANY)
        segments = decode_segments(facts["segments"]) if "segments" in facts else None
        tables = frozenset(segments) if segments is not None else None
        if "tables" in facts:
            tables = frozenset(filter(None, facts["tables"].split(",")))
        parts = None if dates == ANY else _parts(dates.split(","), grain)
        return cls(tables, parts, not dates, segments, facts.get("mode", ""))


@dataclass(frozen=True)
class _Run:
    """What a run replaces.

    Attributes:
        tables: Tables it changes or computed from; ``None`` when it does not say.
        dates: Date parts it replaces, or those of its segments; ``None`` for any.
        names_no_date: It replaces rows and names no date.
        segments: Segments it changes, of all tables; ``None`` for a replacement of whole dates.
    """

    tables: frozenset[str] | None
    dates: frozenset[str] | None
    names_no_date: bool
    segments: frozenset[Segment] | None

    @classmethod
    def of(
        cls,
        grain: DateGrain,
        dates: Iterable[str] | None,
        segments: Mapping[str, Iterable[Segment]] | None,
        reads: Iterable[str],
        tables: Iterable[str] | None,
    ) -> _Run:
        if segments is not None:
            changed = frozenset(s for listed in segments.values() for s in listed)
            return cls(frozenset([*segments, *reads]), frozenset(s.date for s in changed), False, changed)
        names = None if tables is None else frozenset(tables)
        if dates is None:
            return cls(names, None, False, None)
        listed = tuple(dates)
        return cls(names, _parts(listed, grain), not listed, None)


def _parts(dates: Iterable[str], grain: DateGrain) -> frozenset[str]:
    return frozenset(date_part(date, grain) for date in dates if date)


# -- what a version says of itself --------------------------------------------------------------------------------
def _anything(version: _Version) -> bool:
    return True


def _names_tables(side: _Version | _Run) -> bool:
    return side.tables is not None


def _moved_rows(version: _Version) -> bool:
    return version.mode == MAINTAIN


def _appended(version: _Version) -> bool:
    return version.mode == "append"


def _any_date(side: _Version | _Run) -> bool:
    return side.dates is None


def _tables_without_dates(side: _Version | _Run) -> bool:
    return side.tables is not None and side.names_no_date


def _names_segments(version: _Version) -> bool:
    return version.segments is not None


# -- what a run replaces ------------------------------------------------------------------------------------------
def _replaces(run: _Run) -> bool:
    return run.segments is None


def _replaces_any_date(run: _Run) -> bool:
    return _replaces(run) and _any_date(run)


def _replaces_tables(run: _Run) -> bool:
    return _replaces(run) and _names_tables(run)


def _replaces_tables_without_dates(run: _Run) -> bool:
    return _replaces(run) and _tables_without_dates(run)


def _swaps_segments(run: _Run) -> bool:
    return run.segments is not None


# -- what follows -------------------------------------------------------------------------------------------------
def _no(version: _Version, run: _Run) -> bool:
    return False


def _yes(version: _Version, run: _Run) -> bool:
    return True


def _no_without_common_table(version: _Version, run: _Run) -> bool | None:
    return None if (version.tables or frozenset()) & (run.tables or frozenset()) else False


def _by_dates(version: _Version, run: _Run) -> bool:
    return bool((version.dates or frozenset()) & (run.dates or frozenset()))


def _by_segments(version: _Version, run: _Run) -> bool:
    changed = version.segments or {}
    for table in changed.keys() & (run.tables or frozenset()):
        segments = changed[table]
        if segments is None or segments & (run.segments or frozenset()):
            return True
    return False


class _Row(NamedTuple):
    """One row: of a version and a run that both fit, what follows; ``None`` goes on to the next row."""

    name: str
    version: Callable[[_Version], bool]
    run: Callable[[_Run], bool]
    conflict: Callable[[_Version, _Run], bool | None]


# The first row that fits and says something decides; the last two fit whatever comes.
#
# An append never gets in the way of a run that swaps segments: such a run takes out the files it read and no others.
# Compaction does not get in the way of a replacement of dates. Of a table in common whose dates one side does not
# name, any row may have changed. Dates are compared as date parts, since a replaced day carries over the rows that
# share its month.
DECISIONS = (
    _Row("other tables", _names_tables, _names_tables, _no_without_common_table),
    _Row("moved rows, replaced", _moved_rows, _replaces, _no),
    _Row("any date, replaced", _any_date, _replaces, _yes),
    _Row("anything, any date replaced", _anything, _replaces_any_date, _yes),
    _Row("no date of a table, table replaced", _tables_without_dates, _replaces_tables, _yes),
    _Row("a table, no date of it replaced", _names_tables, _replaces_tables_without_dates, _yes),
    _Row("segments, segments swapped", _names_segments, _swaps_segments, _by_segments),
    _Row("appended, segments swapped", _appended, _swaps_segments, _no),
    _Row("any date, segments swapped", _any_date, _swaps_segments, _yes),
    _Row("no date of a table, segments swapped", _tables_without_dates, _swaps_segments, _yes),
    _Row("dates, dates replaced", _anything, _replaces, _by_dates),
    _Row("dates, segments swapped", _anything, _swaps_segments, _by_dates),
)


class Decision(NamedTuple):
    """Whether a version and a run get in each other's way, and the row of ``DECISIONS`` that says so."""

    row: str
    conflict: bool


def decide(
    facts: Mapping[str, str],
    grain: DateGrain,
    *,
    dates: Iterable[str] | None,
    segments: Mapping[str, Iterable[Segment]] | None,
    reads: Iterable[str] = (),
    tables: Iterable[str] | None = None,
) -> Decision:
    """Whether a published version changed what a run replaces; arguments as for ``overlap``."""
    version, run = _Version.of(facts, grain), _Run.of(grain, dates, segments, reads, tables)
    for row in DECISIONS:
        if row.version(version) and row.run(run):
            conflict = row.conflict(version, run)
            if conflict is not None:
                return Decision(row.name, conflict)
    raise AssertionError("the last rows fit every run")


def overlap(
    facts: Mapping[str, str],
    grain: DateGrain,
    *,
    dates: Iterable[str] | None,
    segments: Mapping[str, Iterable[Segment]] | None,
    reads: Iterable[str] = (),
    tables: Iterable[str] | None = None,
) -> bool:
    """Whether a published version changed what a run replaces, as ``DECISIONS`` says.

    Where both sides name their tables, only a table in common counts: a new feature group has none with a backfill of
    another column.

    Args:
        facts: The version's facts.
        grain: Date part of a segment.
        dates: Event dates that the run replaces, ``None`` for any.
        segments: Segments that the run changes, by table; ``None`` for a replacement of whole dates.
        reads: Further tables whose rows in the same segments the run computed from.
        tables: Tables whose rows a replacement changes; ``None`` when it does not say.
    """
    return decide(facts, grain, dates=dates, segments=segments, reads=reads, tables=tables).conflict
