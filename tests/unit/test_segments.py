"""Segments: their text, and which runs get in each other's way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.lake.segments import Segment, date_part, decode_segments, encode_segments, overlap
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
