"""Segments: their text, and which runs get in each other's way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.lake.conflicts import DECISIONS, decide, overlap
from dedup_storage.lake.segments import Segment, date_part, decode_segments, encode_segments
from dedup_storage.schema import DateGrain

SEGMENTS = st.builds(
    Segment, st.dates().map(lambda d: d.isoformat()) | st.just("2024-01") | st.just(""), st.integers(0, 65_535)
)
TABLES = st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.frozensets(SEGMENTS, min_size=1), max_size=4)
JAN_1, JAN_2 = Segment("2024-01-01", 0), Segment("2024-01-02", 0)


@given(TABLES)
def test_segments_come_back(tables: dict[str, frozenset[Segment]]) -> None:
    assert decode_segments(encode_segments(tables)) == tables


def test_too_many_segments_stand_for_all() -> None:
    many = {"t": frozenset(Segment(f"{y}-01-01", b) for y in range(2000, 2100) for b in range(200))}
    assert decode_segments(encode_segments(many)) == {"t": None}
    assert overlap({"segments": encode_segments(many)}, DateGrain.DAY, dates=(), segments={"t": {JAN_1}})


def test_date_parts() -> None:
    assert [date_part("2024-01-31", grain) for grain in DateGrain] == ["2024-01-31", "2024-01", ""]


@pytest.mark.parametrize(
    ("facts", "table", "reads", "expected"),
    [
        ({"segments": "a=2024-01-01:0"}, "a", (), True),
        ({"segments": "a=2024-01-01:1"}, "a", (), False),
        ({"segments": "a=2024-01-02:0"}, "a", (), False),
        ({"segments": "b=2024-01-01:0"}, "a", (), False),
        ({"segments": "b=2024-01-01:0"}, "a", ("b",), True),
        ({"mode": "append", "dates": "2024-01-01"}, "a", (), False),
        ({"mode": "replace", "dates": "2024-01-01"}, "a", (), True),
        ({"mode": "replace", "dates": "2024-01-02"}, "a", (), False),
        ({"kind": "rollback", "dates": "*"}, "a", (), True),
        ({}, "a", (), True),
    ],
)
def test_what_conflicts_with_a_run_on_segments(
    facts: dict[str, str], table: str, reads: tuple[str, ...], expected: bool
) -> None:
    found = overlap(facts, DateGrain.DAY, dates=(), segments={table: frozenset({JAN_1})}, reads=reads)
    assert found is expected


def test_what_conflicts_with_a_replacement() -> None:
    def conflicts(theirs: str, grain: DateGrain) -> bool:
        return overlap({"dates": theirs}, grain, dates=("2024-01-05",), segments=None)

    assert not conflicts("2024-01-06", DateGrain.DAY)
    assert conflicts("2024-01-06,2024-01-05", DateGrain.DAY)
    # A replaced day carries over its month: whatever came into the month meanwhile would be lost.
    assert conflicts("2024-01-06", DateGrain.MONTH)
    assert conflicts("2024-01", DateGrain.MONTH)
    assert not conflicts("2024-02-05", DateGrain.MONTH)
    assert conflicts("2024-06-06", DateGrain.NONE)
    assert conflicts("*", DateGrain.DAY)


@pytest.mark.parametrize("grain", list(DateGrain))
@pytest.mark.parametrize(
    ("facts", "tables", "expected"),
    [
        ({"tables": "fg_a", "dates": ""}, {"impressions"}, False),
        ({"tables": "fg_a", "dates": ""}, {"fg_a"}, True),
        ({"tables": "", "dates": ""}, {"fg_a"}, False),
        ({"tables": "fg_a,impressions", "dates": "*"}, {"impressions"}, True),
        ({"tables": "fg_a,impressions", "dates": "*"}, {"fg_b"}, False),
        ({"tables": "impressions,requests", "mode": "replace", "dates": "2024-01-01"}, {"fg_a"}, False),
        ({"tables": "impressions,requests", "mode": "append", "dates": "2024-01-01"}, {"impressions"}, None),
        # Of a release that did not name tables.
        ({"dates": ""}, {"fg_a"}, False),
        ({"dates": "*"}, {"fg_a"}, True),
    ],
)
def test_tables_in_common_decide(
    facts: dict[str, str], tables: set[str], expected: bool | None, grain: DateGrain
) -> None:
    """As a run on segments, as a feature group's replacement of its own rows, and as one of any date."""
    day = Segment(date_part("2024-01-01", grain), 0)
    on_segments = overlap(facts, grain, dates=(), segments=dict.fromkeys(tables, frozenset({day})))
    own_rows = overlap(facts, grain, dates=(), segments=None, tables=tables)
    any_date = overlap(facts, grain, dates=None, segments=None, tables=tables)
    if expected is None:
        # Appended rows stay beside swapped files, and are lost under a replaced table.
        assert (on_segments, own_rows, any_date) == (False, True, True)
    else:
        assert (on_segments, own_rows) == (expected, expected)
        assert any_date is (expected or "tables" not in facts)


def test_a_backfill_and_a_refresh_of_one_group_conflict() -> None:
    facts = {"segments": "fg_a=2024-01-01:0", "mode": "backfill", "dates": "2024-01-01"}
    assert overlap(facts, DateGrain.DAY, dates=(), segments=None, tables={"fg_a"})
    assert not overlap(facts, DateGrain.DAY, dates=(), segments=None, tables={"fg_b"})
    moved = facts | {"mode": "maintain"}
    assert not overlap(moved, DateGrain.DAY, dates=(), segments=None, tables={"fg_a"})


DAY_1 = {"a": {JAN_1}}
ROWS: list[tuple[str, dict[str, str], dict[str, Any], bool]] = [
    ("other tables", {"tables": "b", "dates": "*"}, {"dates": None, "segments": None, "tables": {"a"}}, False),
    ("moved rows, replaced", {"mode": "maintain"}, {"dates": None, "segments": None}, False),
    ("any date, replaced", {"dates": "*"}, {"dates": ("2024-01-01",), "segments": None}, True),
    ("anything, any date replaced", {"dates": "2024-01-01"}, {"dates": None, "segments": None}, True),
    (
        "no date of a table, table replaced",
        {"tables": "a", "dates": ""},
        {"dates": ("2024-01-01",), "segments": None, "tables": {"a"}},
        True,
    ),
    (
        "a table, no date of it replaced",
        {"tables": "a", "dates": "2024-01-01"},
        {"dates": (), "segments": None, "tables": {"a"}},
        True,
    ),
    ("segments, segments swapped", {"segments": "a=2024-01-01:0"}, {"dates": (), "segments": DAY_1}, True),
    ("segments, segments swapped", {"segments": "a=2024-01-01:1"}, {"dates": (), "segments": DAY_1}, False),
    ("segments, segments swapped", {"segments": "a=*"}, {"dates": (), "segments": DAY_1}, True),
    ("appended, segments swapped", {"mode": "append", "dates": "2024-01-01"}, {"dates": (), "segments": DAY_1}, False),
    ("any date, segments swapped", {"mode": "replace"}, {"dates": (), "segments": DAY_1}, True),
    (
        "no date of a table, segments swapped",
        {"tables": "a", "dates": "", "mode": "replace"},
        {"dates": (), "segments": DAY_1},
        True,
    ),
    ("dates, dates replaced", {"dates": "2024-01-01,2024-01-02"}, {"dates": ("2024-01-02",), "segments": None}, True),
    ("dates, dates replaced", {"dates": "2024-01-01"}, {"dates": ("2024-01-02",), "segments": None}, False),
    ("dates, segments swapped", {"dates": "2024-01-01"}, {"dates": (), "segments": DAY_1}, True),
    ("dates, segments swapped", {"dates": "2024-01-02"}, {"dates": (), "segments": DAY_1}, False),
]


@pytest.mark.parametrize(("row", "facts", "run", "conflict"), ROWS)
def test_each_row_of_the_table_decides(row: str, facts: dict[str, str], run: dict[str, Any], conflict: bool) -> None:
    assert decide(facts, DateGrain.DAY, **run) == (row, conflict)


def test_every_row_of_the_table_is_tried() -> None:
    names = [row.name for row in DECISIONS]
    assert list(dict.fromkeys(row for row, *_ in ROWS)) == names
    assert len(set(names)) == len(names)


def overlap_in_branches(
    facts: Mapping[str, str],
    grain: DateGrain,
    *,
    dates: Iterable[str] | None,
    segments: Mapping[str, Iterable[Segment]] | None,
    reads: Iterable[str] = (),
    tables: Iterable[str] | None = None,
) -> bool:
    """The rules as one function with many branches: the plain, slow form of the table."""
    version_dates = facts.get("dates", "*")
    run_tables = {*segments, *reads} if segments is not None else None if tables is None else set(tables)
    touched = changed_tables(facts)
    named = run_tables is not None and touched is not None
    if run_tables is not None and touched is not None and not run_tables & touched:
        return False
    if segments is None:
        if facts.get("mode") == "maintain":
            return False
        if version_dates == "*" or dates is None:
            return True
        dates = tuple(dates)
        if named and not (version_dates and dates):
            return True
        return bool(parts(version_dates.split(","), grain) & parts(dates, grain))
    if "segments" in facts:
        changed = decode_segments(facts["segments"])
        swapped = frozenset(s for listed in segments.values() for s in listed)
        return any(
            table in changed and (changed[table] is None or bool((changed[table] or frozenset()) & swapped))
            for table in {*segments, *reads}
        )
    if facts.get("mode") == "append":
        return False
    if version_dates == "*" or (named and not version_dates):
        return True
    return bool(parts(version_dates.split(","), grain) & {s.date for listed in segments.values() for s in listed})


def changed_tables(facts: Mapping[str, str]) -> set[str] | None:
    """Tables whose rows a version changed; ``None`` when it does not say."""
    if "tables" in facts:
        return set(filter(None, facts["tables"].split(",")))
    return set(decode_segments(facts["segments"])) if "segments" in facts else None


def parts(dates: Iterable[str], grain: DateGrain) -> set[str]:
    return {date_part(date, grain) for date in dates if date}


DATES = (None, "*", "", "2024-01-01", "2024-01-02,2024-02-01", "2024-01", ",2024-01-01")
NAMES = ("dates", "tables", "segments", "mode")
FACTS = [
    {name: value for name, value in zip(NAMES, values, strict=True) if value is not None}
    for values in product(
        DATES,
        (None, "", "a", "a,b"),
        (None, "", "a=2024-01-01:0", "a=*", "a=2024-01:0|b=2024-02-01:1"),
        (None, "append", "replace", "maintain"),
    )
]
SWAPS = [
    {"dates": (), "segments": segments, "reads": reads}
    for segments, reads in product(
        ({}, DAY_1, {"a": {Segment("2024-01", 0)}}, {"a": {JAN_2}, "b": {Segment("2024-02-01", 1), Segment("", 0)}}),
        ((), ("b",)),
    )
]
REPLACEMENTS = [
    {"dates": dates, "segments": None, "tables": tables}
    for dates, tables in product(
        (None, (), ("2024-01-01",), ("2024-01-31", "2024-02-01"), ("",)), (None, set(), {"a"}, {"b", "c"})
    )
]


@pytest.mark.parametrize("grain", list(DateGrain))
def test_the_table_decides_as_the_branches_did(grain: DateGrain) -> None:
    for facts, run in product(FACTS, [*SWAPS, *REPLACEMENTS]):
        assert overlap(facts, grain, **run) is overlap_in_branches(facts, grain, **run), (facts, run)  # type: ignore[arg-type]
