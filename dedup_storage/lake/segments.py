"""Segments: what a backfill rewrites, what conflicts with what. Pure.

A segment is one partition of the dataset's tables: a date part (a day, a month or nothing) and a user bucket. A run
that changes segments names them in its version's facts, so that runs on other segments can be told apart from those
that got in its way.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from dedup_storage.layout import DatasetSpec
from dedup_storage.schema import DateGrain

__all__ = [
    "MAINTAIN",
    "Segment",
    "by_buckets",
    "date_part",
    "decode_segments",
    "encode_segments",
    "overlap",
    "segments_where",
]

_PART_LENGTH = {DateGrain.DAY: 10, DateGrain.MONTH: 7, DateGrain.NONE: 0}
_MOST_CHARACTERS = 32_000
_ANY = "*"
# Fact `mode` of a version that has the rows of the one before it in other files.
MAINTAIN = "maintain"


class Segment(NamedTuple):
    """One partition.

    Attributes:
        date: ``2024-01-31``, ``2024-01`` or nothing, as the dataset's date grain is.
        bucket: User bucket.
    """

    date: str
    bucket: int


def date_part(date: str, grain: DateGrain) -> str:
    """The date part of the segments that hold a date (ISO).

    Example: ``date_part("2024-01-31", DateGrain.MONTH)`` -> ``"2024-01"``
    """
    return date[: _PART_LENGTH[grain]]


def by_buckets(segments: Iterable[Segment]) -> dict[tuple[int, ...], list[str]]:
    """Date parts by the buckets that are named with them: few conditions instead of many.

    Example: ``[("2024-01-30", 0), ("2024-01-31", 0), ("2024-01-31", 2)]`` ->
    ``{(0,): ["2024-01-30"], (0, 2): ["2024-01-31"]}``
    """
    by_date: dict[str, set[int]] = {}
    for segment in segments:
        by_date.setdefault(segment.date, set()).add(segment.bucket)
    found: dict[tuple[int, ...], list[str]] = {}
    for part, buckets in sorted(by_date.items()):
        found.setdefault(tuple(sorted(buckets)), []).append(part)
    return found


def segments_where(
    spec: DatasetSpec, segments: Iterable[Segment], *, bucket: str, column: str, months: Callable[[Sequence[str]], str]
) -> str:
    """A SQL condition that holds for the rows of the segments.

    Args:
        spec: The dataset.
        segments: Where the rows lie.
        bucket: The user bucket, as SQL.
        column: What dates are compared with, as SQL; not used where segments have no date.
        months: A condition on the months named, each ``yyyy-MM``, joined by OR.
    """

    def dates(parts: Sequence[str]) -> str:
        if spec.event_date_column is None or spec.date_grain is DateGrain.NONE:
            return "TRUE"
        clauses = [f"{column} IS NULL"] if "" in parts else []
        dated = [p for p in parts if p]
        if dated and spec.date_grain is DateGrain.DAY:
            days = ", ".join(f"DATE'{dt.date.fromisoformat(p)}'" for p in dated)
            clauses.append(f"{column} IN ({days})")
        elif dated:
            clauses.append(months(dated))
        return "(" + " OR ".join(clauses) + ")"

    clauses = [
        f"({dates(parts)} AND {bucket} IN ({', '.join(map(str, listed))}))"
        for listed, parts in by_buckets(segments).items()
    ]
    return "(" + " OR ".join(clauses) + ")" if clauses else "FALSE"


def encode_segments(tables: Mapping[str, Iterable[Segment]]) -> str:
    """Segments by table as one short text; a table with too many of them stands for all of its segments.

    Example: ``{"impressions": [("2024-01-31", 0), ("2024-01-31", 2)]}`` -> ``"impressions=2024-01-31:0,2"``
    """
    parts = []
    for table, segments in sorted(tables.items()):
        by_date: dict[str, list[int]] = {}
        for segment in sorted(set(segments)):
            by_date.setdefault(segment.date, []).append(segment.bucket)
        text = ";".join(f"{date}:{','.join(map(str, buckets))}" for date, buckets in by_date.items())
        parts.append(f"{table}={text if len(text) <= _MOST_CHARACTERS else _ANY}")
    return "|".join(parts)


def decode_segments(text: str) -> dict[str, frozenset[Segment] | None]:
    """What ``encode_segments`` wrote; ``None`` stands for all segments of a table."""
    tables: dict[str, frozenset[Segment] | None] = {}
    for part in filter(None, text.split("|")):
        table, _, listed = part.partition("=")
        if listed == _ANY:
            tables[table] = None
            continue
        found: set[Segment] = set()
        for group in filter(None, listed.split(";")):
            date, _, buckets = group.partition(":")
            found.update(Segment(date, int(bucket)) for bucket in buckets.split(","))
        tables[table] = frozenset(found)
    return tables


def overlap(
    facts: Mapping[str, str],
    grain: DateGrain,
    *,
    dates: Iterable[str] | None,
    segments: Mapping[str, Iterable[Segment]] | None,
    reads: Iterable[str] = (),
    tables: Iterable[str] | None = None,
) -> bool:
    """Whether a published version changed what a run replaces.

    Args:
        facts: The version's facts.
        grain: Date part of a segment.
        dates: Event dates that the run replaces, ``None`` for any.
        segments: Segments that the run changes, by table; ``None`` for a replacement of whole dates.
        reads: Further tables whose rows in the same segments the run computed from.
        tables: Tables whose rows a replacement changes; ``None`` when it does not say.

    Where both sides name their tables, only a table in common counts: a new feature group has none with a backfill of
    another column. Of a table in common whose dates one side does not name, any row may have changed.

    An append never gets in the way of a run that changes segments: such a run takes out the files it read and no
    others. Compaction does not get in the way of a replacement of dates. Dates are compared as segments, since a
    replaced day carries over the rows that share its month.
    """
    theirs = facts.get("dates", _ANY)
    own = {*segments, *reads} if segments is not None else None if tables is None else set(tables)
    touched = _changed_tables(facts)
    named = own is not None and touched is not None
    if own is not None and touched is not None and not own & touched:
        return False
    if segments is None:
        if facts.get("mode") == MAINTAIN:
            return False
        if theirs == _ANY or dates is None:
            return True
        dates = tuple(dates)
        if named and not (theirs and dates):
            return True
        return bool(_parts(theirs.split(","), grain) & _parts(dates, grain))
    if "segments" in facts:
        changed = decode_segments(facts["segments"])
        mine = frozenset(s for listed in segments.values() for s in listed)
        return any(
            table in changed and (changed[table] is None or bool((changed[table] or frozenset()) & mine))
            for table in {*segments, *reads}
        )
    if facts.get("mode") == "append":
        return False
    if theirs == _ANY or (named and not theirs):
        return True
    return bool(_parts(theirs.split(","), grain) & {s.date for listed in segments.values() for s in listed})


def _changed_tables(facts: Mapping[str, str]) -> set[str] | None:
    """Tables whose rows a version changed; ``None`` when it does not say."""
    if "tables" in facts:
        return set(filter(None, facts["tables"].split(",")))
    return set(decode_segments(facts["segments"])) if "segments" in facts else None


def _parts(dates: Iterable[str], grain: DateGrain) -> set[str]:
    return {date_part(date, grain) for date in dates if date}
