"""Segments: what a backfill rewrites. Pure.

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
    "ANY",
    "LAY_ANEW",
    "MAINTAIN",
    "REBUCKET",
    "Segment",
    "by_buckets",
    "date_part",
    "decode_segments",
    "encode_segments",
    "segments_where",
]

_PART_LENGTH = {DateGrain.DAY: 10, DateGrain.MONTH: 7, DateGrain.NONE: 0}
_MOST_CHARACTERS = 32_000
# In facts: every segment of a table, or any date.
ANY = "*"
# Fact `mode` of a version that has the rows of the one before it in other files.
MAINTAIN = "maintain"
# The same fact of a version whose requests refer to copies of events, and which is otherwise the one before it.
LAY_ANEW = "lay-anew"
# The same of one that has them in another number of user buckets.
REBUCKET = "rebucket"


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
        parts.append(f"{table}={text if len(text) <= _MOST_CHARACTERS else ANY}")
    return "|".join(parts)


def decode_segments(text: str) -> dict[str, frozenset[Segment] | None]:
    """What ``encode_segments`` wrote; ``None`` stands for all segments of a table."""
    tables: dict[str, frozenset[Segment] | None] = {}
    for part in filter(None, text.split("|")):
        table, _, listed = part.partition("=")
        if listed == ANY:
            tables[table] = None
            continue
        found: set[Segment] = set()
        for group in filter(None, listed.split(";")):
            date, _, buckets = group.partition(":")
            found.update(Segment(date, int(bucket)) for bucket in buckets.split(","))
        tables[table] = frozenset(found)
    return tables
