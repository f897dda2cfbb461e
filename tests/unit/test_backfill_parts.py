"""What backfills and maintenance decide without Spark: costs, parts, limits, net changes of files."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.dataset.backfill.other_parts import refuse_other_parts
from dedup_storage.dataset.backfill.parts import PART_BYTES, parts_of
from dedup_storage.dataset.backfill.plan import BackfillPlan, SegmentPlan, _segment
from dedup_storage.dataset.backfill.request import Affected, Change, Strategy, former_digest
from dedup_storage.dataset.upkeep.decay import Limits, SegmentDecay, _judged
from dedup_storage.errors import UsageError
from dedup_storage.lake.branch import BranchPart, branch_name
from dedup_storage.lake.engine.net import Files
from dedup_storage.lake.iceberg.rewrite import _segment_of
from dedup_storage.lake.requests import Request
from dedup_storage.lake.segments import Segment

MB = 1_000_000


@pytest.mark.parametrize("text", ["2024-02-30", "2024-13-01", "20240131", "2024-1-31", "٢٠٢٤-01-31", ""])
def test_a_date_that_is_none_is_refused(text: str) -> None:
    for end in ("first_date", "last_date"):
        with pytest.raises(UsageError, match="an event date is not valid; expected a date such as 2024-01-31"):
            Affected(**{end: text})


def segment(
    bytes_: int, rows: int, affected: int, *, files: int = 1, affected_files: int = 1, bucket: int = 0
) -> SegmentPlan:
    return _segment(
        "2024-01-01",
        bucket,
        files=files,
        rows=rows,
        stored_rows=rows,
        bytes_=bytes_,
        affected_files=affected_files,
        affected_rows=affected,
        affected_bytes=bytes_ * affected_files // files,
        choices=list(Strategy),
    )


def test_few_rows_of_a_large_segment_are_merged_and_many_are_written_anew() -> None:
    assert segment(100 * MB, 1_000_000, 10_000).strategy is Strategy.MERGE_ON_READ
    assert segment(100 * MB, 1_000_000, 150_000).strategy is Strategy.MERGE_ON_READ
    assert segment(100 * MB, 1_000_000, 200_000).strategy is Strategy.OVERWRITE
    assert segment(100 * MB, 1_000_000, 1_000_000).strategy is Strategy.OVERWRITE
    # One of ten files holds all affected rows.
    assert segment(100 * MB, 1_000_000, 90_000, files=10).strategy is Strategy.COPY_ON_WRITE
    # A file of a kilobyte is rather written anew than kept with a deletion vector beside it.
    assert segment(1_000, 10, 1).strategy is Strategy.OVERWRITE


@given(st.integers(1, 10**9), st.integers(1, 10**6), st.data())
def test_the_chosen_strategy_is_the_cheapest(bytes_: int, rows: int, data: st.DataObject) -> None:
    affected = data.draw(st.integers(1, rows))
    chosen = segment(bytes_, rows, affected)
    for strategy in Strategy:
        other = _segment(
            "", 0, files=1, rows=rows, stored_rows=rows, bytes_=bytes_, affected_files=1, affected_rows=affected,
            affected_bytes=bytes_, choices=[strategy],
        )  # fmt: skip
        assert chosen.cost <= other.cost
    assert chosen.write_bytes >= chosen.fixed_bytes


def plan(segments: list[SegmentPlan]) -> BackfillPlan:
    return BackfillPlan(
        dataset="d", table="t", columns=("y",), base=1, affected_rows=0, segments_total=len(segments), table_bytes=0,
        read_bytes=0, write_bytes=0, fixed_bytes=0, strategies={}, untouched=(), segments=tuple(segments),
    )  # fmt: skip


def test_parts_hold_every_open_segment_once() -> None:
    many = [segment(100 * MB, 1_000_000, 1_000 if b % 2 else 10**6, bucket=b) for b in range(40)]
    done = {Segment("2024-01-01", 3), Segment("2024-01-01", 4)}
    parts = list(parts_of(plan(many), done, most_segments=7))
    names = [name for part in parts for name in part.names]
    assert sorted(names) == sorted(s.segment for s in many if s.segment not in done)
    assert all(len(part.segments) <= 7 for part in parts)
    assert all(s.strategy is part.strategy for part in parts for s in part.segments)
    large = [segment(PART_BYTES // 2, 10, 10, bucket=b) for b in range(5)]
    assert [len(part.segments) for part in parts_of(plan(large), ())] == [2, 2, 1]


def test_requests_differ_and_a_user_id_is_not_in_them() -> None:
    change = Change(expressions={"y": "y + 1"})
    texts = {
        former_digest(change, Affected()),
        former_digest(Change(expressions={"y": "y + 2"}), Affected()),
        former_digest(change, Affected(users=[17])),
        former_digest(change, Affected(users=[18])),
        former_digest(change, Affected(where="y = 1")),
        former_digest(change, Affected(first_date="2024-01-01")),
        former_digest(change, Affected(changed_since=3)),
    }
    assert len(texts) == 7
    assert former_digest(change, Affected(users=[2, 1])) == former_digest(change, Affected(users=[1, 2]))
    assert "918273" not in str(Affected(users=[918273]).described())
    assert branch_name("daily:2024@+=") != branch_name("daily:2025@+=")
    assert branch_name("daily:2024@+=").replace("-", "").isalnum()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"hidden_rows": 19, "deletion_vectors": 1}, ()),
        ({"hidden_rows": 20, "deletion_vectors": 1}, ("hidden rows",)),
        ({"overlapping_files": 1}, ("overlapping files",)),
        ({"files": 3}, ()),
        ({"files": 4}, ("small files",)),
        ({"files": 4, "bytes": 4 * 512 * 1024**2}, ()),
    ],
)
def test_what_counts_as_decayed(changes: dict[str, int], expected: tuple[str, ...]) -> None:
    healthy = {"files": 1, "rows": 1_000, "bytes": MB, "hidden_rows": 0, "deletion_vectors": 0, "overlapping_files": 0}
    found = SegmentDecay(table="t", date="", bucket=0, **{**healthy, **changes})
    assert _judged(found, Limits()).reasons == expected


def test_the_segment_of_a_partition_path() -> None:
    day = [("event_date", "identity"), ("user_id_bucket", "bucket[4]")]
    month = [("event_date_month", "month"), ("user_id_bucket", "bucket[4]")]
    assert _segment_of("event_date=2024-01-31/user_id_bucket=3", day) == Segment("2024-01-31", 3)
    assert _segment_of("event_date_month=2024-01/user_id_bucket=0", month) == Segment("2024-01", 0)
    assert _segment_of("event_date=null/user_id_bucket=1", day) == Segment("", 1)
    assert _segment_of("user_id_bucket=2", [("user_id_bucket", "bucket[4]")]) == Segment("", 2)


class _File:
    """As much of Iceberg's file objects as is looked at."""

    def __init__(self, place: str, vector_of: str | None = None) -> None:
        self.place, self.vector_of = place, vector_of

    def location(self) -> str:
        return self.place

    def content(self) -> str:
        return "DATA" if self.vector_of is None else "POSITION_DELETES"

    def contentOffset(self) -> int:  # noqa: N802 - Iceberg's name
        return 4

    def referencedDataFile(self) -> str | None:  # noqa: N802 - Iceberg's name
        return self.vector_of


class _Files(list[_File]):
    """A Java iterable."""

    def iterator(self) -> Any:
        it: Iterator[_File] = iter(self)
        left = list(it)

        class Walk:
            def hasNext(self) -> bool:  # noqa: N802 - Java's name
                return bool(left)

            def next(self) -> _File:
                return left.pop(0)

        return Walk()


class _Snapshot:
    def __init__(self, **lists: list[_File]) -> None:
        self.lists = lists

    def __getattr__(self, name: str) -> Any:
        return lambda _io: _Files(self.lists.get(name, []))


class _Table:
    def __init__(self, *snapshots: _Snapshot) -> None:
        self.snapshots = snapshots

    def io(self) -> None:
        return None

    def snapshot(self, number: int) -> _Snapshot:
        return self.snapshots[number]


def test_net_change_of_several_commits() -> None:
    old, first, second = _File("old"), _File("first"), _File("second")
    on_old, on_old_again, on_other = _File("v1", "old"), _File("v2", "old"), _File("v3", "other")
    table = _Table(
        _Snapshot(addedDataFiles=[first], addedDeleteFiles=[on_old, on_other]),
        # The vector on `old` is replaced by a fuller one; then `old` goes, and so does what `first` brought.
        _Snapshot(removedDeleteFiles=[on_old], addedDeleteFiles=[on_old_again]),
        _Snapshot(removedDataFiles=[old, first], addedDataFiles=[second]),
    )
    net = Files.of(table, range(3))
    assert set(net.added) == {"second"}
    assert set(net.removed) == {"old"}
    assert set(net.marks) == {"v3@4"}
    assert net.unmarked == {}


def test_parts_of_another_request_are_left_alone() -> None:
    """Under one run id: a compaction's on one table, a backfill's on another."""
    compaction = Request.of("maintain").text
    kept = {"requests": [{"request": compaction}], "impressions": [{"part": "of an early release"}], "labels": []}
    meta: Any = SimpleNamespace(spec=SimpleNamespace(name="clicks"), tables=[*kept, "fg_age"])
    tables: Any = SimpleNamespace(
        branches=lambda dataset, table: [branch_name("r")] if table in kept else ["run-of-others"],
        branch=lambda dataset, table, run_id: SimpleNamespace(
            parts=lambda: [BranchPart(facts) for facts in kept[table]]
        ),
    )
    backfill = Request.of("backfill", columns=["y"])
    refuse_other_parts(tables, meta, lambda: Request.of("maintain"), "r")
    refuse_other_parts(tables, meta, lambda: backfill, "r", besides="requests")
    with pytest.raises(UsageError, match=r"the run r was begun .*; expected job maintain; got job backfill"):
        refuse_other_parts(tables, meta, lambda: backfill, "r", besides="impressions")

    def never() -> Request:
        raise AssertionError("no part, no look at frames")

    refuse_other_parts(tables, meta, never, "other")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"expressions": {"a": "1"}, "columns": ("b",)}, "columns does nothing beside expressions"),
        ({"expressions": {"a": "1"}, "inputs": ("b",)}, "inputs does nothing without a function"),
    ],
)
def test_what_a_change_would_ignore_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Change(**options)
