"""A run's parts on Delta without Spark: stored once, taken together, never taken from under a publication."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.config import load_settings
from dedup_storage.errors import ConflictError, StorageError
from dedup_storage.lake.branch import PART, RUN_ID, branch_name
from dedup_storage.lake.delta.branch import BRANCH_FACT, DeltaBranch, NetChange, branches_of
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.metadata import DeltaLake
from dedup_storage.lake.delta.segments import segments_condition
from dedup_storage.lake.delta.stage import StagedFiles, StagedStore
from dedup_storage.lake.protocol import Staged
from dedup_storage.lake.segments import Segment
from tests.unit.test_delta import spec

TABLE = "requests"


class Lake:
    """A dataset's folder with one table of three files, and a branch of it."""

    def __init__(self, root: Path) -> None:
        given = {"DEDUP_STORAGE_WAREHOUSE": str(root), "DEDUP_STORAGE_FORMAT": "delta"}
        self.lake = DeltaLake(load_settings(Path("conf/local.yaml"), given))
        self.place = Path(self.lake.uri("d", TABLE))
        self.lake.log("d").create()
        rows = pa.table({"u": pa.array([0, 1, 2, 10, 20], pa.int64()), "p": pa.array([0, 1, 2, 1, 2], pa.int32())})
        write_deltalake(str(self.place), rows, partition_by=["p"])
        self.store = StagedStore(self.lake.uri("d"), {})
        self.files = sorted(live_files(self.lake.ref("d", TABLE)).paths)
        self.branch = self.made()

    def made(self) -> DeltaBranch:
        # No rows are read.
        return DeltaBranch(cast(Any, None), self.lake, "d", TABLE, branch_name("run"))

    def staged(self, name: str, rows: int = 1) -> Staged:
        """A new file, described under an attempt of its name."""
        (self.place / name).write_bytes(b"rows")
        add = {"path": name, "size": 4, "stats": json.dumps({"numRecords": rows}), "partitionValues": {"p": "0"}}
        self.store.put(name, StagedFiles(TABLE, (json.dumps({"add": add}),)))
        return Staged(TABLE, -1, None, rows, 4, 1, attempt=name)

    def there(self, *names: str) -> list[bool]:
        return [(self.place / name).exists() for name in names]


@pytest.fixture
def at(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def facts(*buckets: int) -> dict[str, str]:
    return {PART: f"{TABLE}=:{','.join(map(str, buckets))}", "request": "x", RUN_ID: "run"}


def test_parts_are_stored_and_taken_together(at: Lake) -> None:
    branch = at.branch
    assert (branch.exists(), branch.parts(), branches_of(at.lake, "d", TABLE)) == (False, [], [])
    branch.open(0)
    branch.swap(at.staged("a", 1), at.files[:1], facts(0))
    branch.swap(at.staged("b", 4), at.files[1:2], facts(1))
    # Another process sees the same.
    other = at.made()
    assert branches_of(at.lake, "d", TABLE) == [branch.name]
    assert other.begun_at() == 0
    assert [sorted(p.segments) for p in other.parts()] == [[Segment("", 0)], [Segment("", 1)]]
    assert other.parts()[0].facts["request"] == "x"
    assert other.count() == 5 - 3 + 5
    assert (other.held(), at.store.tables("a")) == ((0, {"a", "b"}), [])
    other.stage(0, "attempt", {"k": "v"})
    staged = at.store.get("attempt", TABLE)
    assert staged is not None
    assert (set(staged.paths), set(staged.removed), staged.borrowed) == ({"a", "b"}, set(at.files[:2]), True)
    # The attempt is given up; the branch goes on.
    at.store.discard("attempt")
    assert at.there("a", "b") == [True, True]
    branch.drop()
    assert at.there("a", "b", at.files[0]) == [False, False, True]
    assert branches_of(at.lake, "d", TABLE) == []


def test_one_of_two_processes_stores_a_part(at: Lake) -> None:
    at.branch.open(0)

    def swap(name: str, removed: str) -> bool:
        try:
            at.made().swap(at.staged(name), [removed], facts(0))
        except ConflictError:
            return False
        return True

    jobs = [(f"{turn}-{number}", at.files[turn]) for turn in range(3) for number in range(3)]
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda job: swap(*job), jobs))
    assert won.count(True) == len(at.branch.parts()) == 3
    assert at.branch.net().removed == set(at.files)
    # The files of those that lost are gone, those of the others are not.
    assert at.there(*(name for name, _ in jobs)) == won


def test_what_was_dropped_is_told_as_a_conflict(at: Lake) -> None:
    with pytest.raises(ConflictError, match=r"branch of this run on d\.requests is gone"):
        at.branch.swap(at.staged("a"), [], facts(0))
    assert at.there("a") == [False]
    with pytest.raises(ConflictError, match="is gone"):
        at.branch.stage(0, "attempt", None)


def test_files_that_others_took_out_are_a_conflict(at: Lake) -> None:
    at.branch.open(0)
    at.branch.swap(at.staged("a"), at.files[:1], facts(0))
    rows = pa.table({"u": pa.array([5], pa.int64()), "p": pa.array([0], pa.int32())})
    write_deltalake(str(at.place), rows, mode="overwrite")
    with pytest.raises(ConflictError, match=r"files of d\.requests that this run replaces are gone"):
        at.branch.stage(0, "attempt", None)
    assert at.store.get("attempt", TABLE) is None


@pytest.mark.parametrize("decided", [False, True])
def test_a_publication_keeps_the_files_that_another_process_drops(at: Lake, decided: bool) -> None:
    at.branch.open(0)
    at.branch.swap(at.staged("a"), at.files[:1], facts(0))
    at.branch.stage(0, "attempt", None)
    if decided:
        at.lake.log("d").claim(1, {BRANCH_FACT: at.branch.name})
        at.store.forget("attempt")
    at.made().drop()
    assert (at.branch.exists(), at.there("a")) == (False, [True])


@given(st.lists(st.tuples(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5))), max_size=6))
def test_the_net_change_gives_what_the_parts_give(parts: list[tuple[set[int], set[int]]]) -> None:
    """Applied to the files that there were, against one part after the other; names are never used again."""
    start = {f"old{i}" for i in range(6)}
    now, net = set(start), NetChange()
    for number, (come, gone) in enumerate(parts):
        listed = sorted(now)
        removed = {listed[i] for i in gone if i < len(listed)}
        added = {f"new{number}-{i}" for i in come}
        net.apply([json.dumps({"add": {"path": p}}) for p in added], removed)
        now = (now - removed) | added
    assert (start - net.removed) | set(net.added) == now
    assert net.removed <= start


def test_conditions_name_partition_columns() -> None:
    days = [Segment("2024-01-30", 0), Segment("2024-01-31", 0), Segment("2024-01-31", 2), Segment("", 1)]
    assert segments_condition(spec(), days) == (
        "(((`event_date` IS NULL) AND `user_bucket` IN (1)) OR "
        "((`event_date` IN (DATE'2024-01-30')) AND `user_bucket` IN (0)) OR "
        "((`event_date` IN (DATE'2024-01-31')) AND `user_bucket` IN (0, 2)))"
    )
    assert segments_condition(spec(), []) == "FALSE"


@pytest.mark.parametrize("stored", [True, False])
def test_a_store_that_does_not_answer_costs_no_part(at: Lake, stored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was stored all the same is found; what was not is told as the store's fault, and the parts stay."""
    import deltalake
    from deltalake.exceptions import DeltaError

    at.branch.open(0)
    at.branch.swap(at.staged("a"), at.files[:1], facts(0))
    write = deltalake.write_deltalake

    def silent(*given: Any, **named: Any) -> None:
        if stored:
            write(*given, **named)
        raise DeltaError("503 Service Unavailable")

    monkeypatch.setattr(deltalake, "write_deltalake", silent)
    if stored:
        at.branch.swap(at.staged("b"), at.files[1:2], facts(1))
    else:
        with pytest.raises(StorageError, match=r"cannot be stored: 503 Service Unavailable.*same run id"):
            at.branch.swap(at.staged("b"), at.files[1:2], facts(1))
    monkeypatch.undo()
    assert [part.segments for part in at.made().parts()] == [frozenset({Segment("", n)}) for n in range(1 + stored)]


def test_a_part_whose_staged_files_are_gone_takes_nothing_out(at: Lake) -> None:
    at.branch.open(0)
    staged = at.staged("a")
    at.store.discard("a")
    with pytest.raises(StorageError, match=r"the staged data of table requests of run run is gone"):
        at.branch.swap(staged, at.files[:1], facts(0))
    assert at.branch.net() == NetChange()
