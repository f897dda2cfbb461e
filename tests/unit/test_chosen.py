"""Which segments a compaction rewrites, and where events and their features go."""

from __future__ import annotations

from typing import Any

from dedup_storage.dataset.upkeep.chosen import Chosen, chosen_segments
from dedup_storage.dataset.upkeep.decay import UNREFERENCED, SegmentDecay

EVENTS = {"fe0_x": "events_g", "events_g": "events_g", "events_w": "events_w"}


def segment(table: str, bucket: int, going: int, *reasons: str, **changes: Any) -> SegmentDecay:
    given: dict[str, Any] = {
        "rows": 100, "files": 1, "bytes": 1, "hidden_rows": 0, "deletion_vectors": 0, "overlapping_files": 0, **changes,
    }  # fmt: skip
    return SegmentDecay(
        table=table, date="2024-01", bucket=bucket, unreferenced_rows=going, reasons=tuple(reasons), **given
    )


def chosen(*segments: SegmentDecay, busy: tuple[str, ...] = (), compact: bool = True) -> Chosen:
    # Features come first, as they may in a catalog.
    tables = dict.fromkeys(sorted({s.table for s in segments}, reverse=True))
    measured = {table: [s for s in segments if s.table == table] for table in tables}
    return chosen_segments(measured, EVENTS, lambda name: "busy" if name in busy else None, compact=compact)


def going(found: Chosen, table: str) -> dict[int, int]:
    return {s.bucket: s.unreferenced_rows for s in found.segments.get(table, ())}


def test_features_go_where_their_events_do_and_nowhere_else() -> None:
    """Shares on either side of the limit; features that are small files, or hidden, and events that are not."""
    found = chosen(
        segment("events_g", 0, 1), segment("fe0_x", 0, 1, "small files", UNREFERENCED),
        segment("events_g", 1, 3, UNREFERENCED), segment("fe0_x", 1, 1),
        segment("events_g", 2, 1, "small files"), segment("fe0_x", 2, 1),
        segment("events_g", 3, 1), segment("fe0_x", 3, 3, UNREFERENCED),
    )  # fmt: skip
    assert going(found, "events_g") == {1: 3, 2: 1}
    assert going(found, "fe0_x") == {0: 0, 1: 1, 2: 1}
    assert found.decayed == {"events_g": 2, "fe0_x": 3}
    only = chosen(*(s for listed in found.segments.values() for s in listed), compact=False)
    assert (going(only, "events_g"), going(only, "fe0_x")) == ({1: 3}, {1: 1})


def test_features_of_events_that_stay_since_a_run_is_at_work_on_them() -> None:
    both = segment("events_g", 0, 3, UNREFERENCED), segment("fe0_x", 0, 3, UNREFERENCED)
    found = chosen(*both, busy=("events_g",))
    assert (found.segments, found.skipped) == ({}, {"events_g": "busy"})
    assert found.decayed == {"events_g": 1, "fe0_x": 0}
    # Rows of features whose events are gone are in nobody's way.
    assert going(chosen(*both, busy=("fe0_x",)), "events_g") == {0: 3}


def test_a_segment_of_which_nothing_would_be_left_is_compacted_all_the_same() -> None:
    found = chosen(
        segment("events_g", 0, 100, UNREFERENCED), segment("events_g", 1, 100, "small files", UNREFERENCED),
        segment("events_g", 2, 60, "hidden rows", UNREFERENCED, hidden_rows=40),
        segment("events_g", 3, 60, UNREFERENCED, hidden_rows=39), segment("fe0_x", 3, 100, UNREFERENCED),
    )  # fmt: skip
    assert going(found, "events_g") == {1: 0, 2: 0, 3: 60}
    assert [s.reasons for s in found.segments["events_g"][:2]] == [("small files",), ("hidden rows",)]
    assert "fe0_x" not in found.segments
