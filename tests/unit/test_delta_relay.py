"""Kept versions made anew, and what events and logs say of it; with ``deltalake`` alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.lake.delta.events import fold
from dedup_storage.lake.delta.files import live_files, restored_actions
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.delta.relay import (
    FilesAnew,
    Relay,
    checkpoints,
    cut_log,
    log_versions,
    named_files,
    relay_table,
)
from dedup_storage.lake.delta.stage import StagedFiles, StagedStore
from dedup_storage.lake.delta.versions import VersionLog
from dedup_storage.lake.folders import delete_files


def published(version: int, **snapshots: int) -> dict[str, Any]:
    body = {"snapshots": snapshots, "rows": dict.fromkeys(snapshots, 10 * version)}
    return {"event": "published", "version": version, "at_ms": 0, "label": None, "body": json.dumps(body)}


def moved(version: int, snapshots: dict[str, dict[str, int]], tags: dict[str, int] | None = None) -> dict[str, Any]:
    rows = {table: dict.fromkeys(map(str, found.values()), 7) for table, found in snapshots.items()}
    body = json.dumps({"snapshots": snapshots, "rows": rows, "tags": tags or {}})
    return {"event": "moved", "version": version, "at_ms": 0, "label": None, "body": body}


def tagged(label: str, snapshot: int) -> dict[str, Any]:
    return {"event": "tag", "version": snapshot, "at_ms": 0, "label": label, "body": "{}"}


EVENTS = [
    published(1, a=1, b=4),
    published(2, a=2, b=4),
    published(3, a=4, b=4),
    moved(3, {"a": {"1": 3, "2": 4}}, {"u/s1": 9}),
    published(4, a=5, b=6),
    published(5, a=8, b=6),
    moved(5, {"a": {"3": 6, "4": 7, "5": 8}}),
    tagged("u/s1", 1),
    tagged("u/s2", 1),
]


@given(st.permutations(EVENTS))
def test_versions_made_anew_stand_for_the_old_ones(events: list[dict[str, Any]]) -> None:
    found = fold(events)
    assert {v: body["snapshots"] for v, body in found.published.items()} == {
        1: {"a": 6, "b": 4},
        2: {"a": 7, "b": 4},
        3: {"a": 7, "b": 4},
        4: {"a": 8, "b": 6},
        5: {"a": 8, "b": 6},
    }
    # Rows of what was made anew are counted again; those of other tables are as they were.
    assert [found.published[v]["rows"] for v in (1, 5)] == [{"a": 7, "b": 10}, {"a": 7, "b": 50}]
    assert [found.today("a", n) for n in (1, 2, 5, 6, 99)] == [6, 7, 8, 6, 99]
    assert found.today("b", 1) == 1
    # By name: the second table of users began again with version 0.
    assert found.tags == {("u", "s1"): 9, ("u", "s2"): 1}


def test_what_was_moved_outlives_the_version_that_did_it(tmp_path: Path) -> None:
    log = VersionLog(str(tmp_path))
    log.create()
    for version, snapshots in enumerate(({"a": 1}, {"a": 2}, {"a": 4}), start=1):
        assert log.claim(version, {"run-id": f"r{version}"})
        more = {"snapshots": {"a": {"1": 3, "2": 4}}, "rows": {"a": {"3": 5, "4": 6}}, "tags": {}}
        assert log.publish(version, {"snapshots": snapshots, "rows": {}}, more if version == 3 else None)
        assert not log.publish(version, {"snapshots": {}, "rows": {}})
    log.forget([3])
    found = log.load()
    assert {v: body["snapshots"]["a"] for v, body in found.published.items()} == {1: 3, 2: 4}
    assert {v: body["rows"]["a"] for v, body in found.published.items()} == {1: 5, 2: 6}


def add(path: str) -> str:
    return json.dumps({"add": {"path": path, "stats": json.dumps({"numRecords": 1})}})


def test_a_versions_files_with_new_ones_in_their_place() -> None:
    groups = (FilesAnew(("old-1", "old-2"), (add("new-1"),)), FilesAnew(("gone",), ()))
    relay = Relay("t", (3, 1, 5), groups)
    assert Relay.from_json(relay.to_json()) == relay
    assert relay.content([add("kept"), add("old-1"), add("old-2")]) == [add("kept"), add("new-1")]
    assert relay.content([add("kept"), add("gone")]) == [add("kept")]
    assert relay.content([add("kept")]) == [add("kept")]
    assert relay.content([]) == []


def test_what_a_log_names(tmp_path: Path) -> None:
    place = str(tmp_path / "t")
    for number in range(3):
        write_deltalake(place, pa.table({"a": [number]}), mode="overwrite" if number == 1 else "append")
    ref = DeltaRef("t", place, {})
    every = {str(p.relative_to(place)) for p in Path(place).glob("*.parquet")}
    assert len(every) == 3
    assert named_files(ref, {}) == every
    table = DeltaTable(place)
    table.create_checkpoint()
    place_of_log = f"{place}/_delta_log"
    Path(place_of_log, f"{0:020}.json").unlink()
    Path(place_of_log, "unrelated.json").write_text("not of the log")
    assert sorted(set(log_versions(ref, {}).values())) == [1, 2]
    # A part of a checkpoint of the second form is of the log too.
    part = f"_sidecars/{2:020}.checkpoint.{1:010}.{1:010}.8f1c.parquet"
    for other in (part, f"_other/{9:020}.json"):
        Path(place_of_log, other).parent.mkdir()
        Path(place_of_log, other).touch()
    assert log_versions(ref, {})[part] == 2
    assert f"{place_of_log}/{part}" in checkpoints(ref, {})
    assert max(log_versions(ref, {}).values()) == 2
    # The first commit is gone, and with it what only it named.
    assert named_files(ref, {}) < every
    assert set(table.file_uris()) <= {f"{place}/{name}" for name in named_files(ref, {})}


def test_descriptions_of_lost_files_are_dropped(tmp_path: Path) -> None:
    store = StagedStore(str(tmp_path), {})
    store.put("one", StagedFiles("t", (add("a"), add("b"))))
    store.put("two", StagedFiles("t", (add("c"),)))
    store.put("two", StagedFiles("other", (add("c"),)))
    store.put("none", StagedFiles("t"))
    store.put_note("three", "t", Relay("t", (1,), (FilesAnew(("x",), (add("d"),)),)).to_json())
    assert sorted(store.paths("t")) == ["a", "b", "c", "d"]
    store.drop_lost("t", {"b", "d"})
    assert sorted(store.paths("t")) == ["a", "b", "d"]
    assert store.get("two", "t") is None
    assert store.get("two", "other") is not None
    assert store.get("none", "t") is not None


class PlainLog:
    """In place of ``TableLog``: commits are files, written without Spark."""

    def __init__(self, place: Path) -> None:
        self.place, self.ref = place, DeltaRef("t", str(place), {})

    def _commits(self) -> list[Path]:
        return sorted(p for p in (self.place / "_delta_log").glob("*.json"))

    def restored(self, ref: DeltaRef, target: Iterable[str]) -> list[str]:
        return restored_actions(ref, target)

    def files_at(self, version: int) -> list[str]:
        live: dict[str, str] = {}
        for commit in self._commits()[: version + 1]:
            for line in map(json.loads, commit.read_text().splitlines()):
                if "add" in line:
                    live[line["add"]["path"]] = json.dumps(line)
                elif "remove" in line:
                    live.pop(line["remove"]["path"])
        return list(live.values())

    def commit(self, actions: Sequence[str], app: str, number: int, *, written: bool = False) -> None:
        if (self.ref.load().transaction_version(app) or 0) >= number:
            return
        mark = json.dumps({"txn": {"appId": app, "version": number, "lastUpdated": 0}})
        place = self.place / "_delta_log" / f"{self.ref.load().version() + 1:020}.json"
        place.write_text("\n".join([*actions, mark]))

    def checkpoint(self, version: int) -> None:
        self.ref.load(version).create_checkpoint()


def applied(ref: DeltaRef, app: str, number: int) -> int | None:
    table = ref.load()
    found = [v for v in range(table.version() + 1) if (ref.load(v).transaction_version(app) or 0) >= number]
    return min(found, default=None)


def test_kept_versions_without_some_rows_and_the_log_before_them_cut(tmp_path: Path) -> None:
    """Three kept versions of five; user 7 leaves, killed once on the way, and nothing in the folder tells of it."""
    place = tmp_path / "t"
    for rows, mode in (
        ([1, 7], "append"),
        ([2, 3], "append"),
        ([4, 7], "append"),
        ([5, 6], "overwrite"),
        ([8], "append"),
    ):
        write_deltalake(str(place), pa.table({"user": rows}), mode=mode)
    log = PlainLog(place)
    before = {v: set(log.ref.load(v).to_pyarrow_table()["user"].to_pylist()) for v in range(5)}
    # The files of commits 0 and 2 hold the user; the second one was kept by version 2 alone.
    names = {v: [json.loads(a)["add"]["path"] for a in log.files_at(v)] for v in range(5)}
    first, third = names[0][0], next(n for n in names[2] if n not in names[1])
    pq.write_table(pa.table({"user": [1]}), place / "anew-1.parquet")
    pq.write_table(pa.table({"user": [4]}), place / "anew-2.parquet")

    def anew(name: str, user: int) -> str:
        stats = {"numRecords": 1, "minValues": {"user": user}, "maxValues": {"user": user}, "nullCount": {"user": 0}}
        about = {"partitionValues": {}, "size": (place / name).stat().st_size, "modificationTime": 0}
        return json.dumps({"add": {"path": name, **about, "dataChange": True, "stats": json.dumps(stats)}})

    groups = (FilesAnew((first,), (anew("anew-1.parquet", 1),)), FilesAnew((third,), (anew("anew-2.parquet", 4),)))
    relay, markers = Relay("t", (0, 2, 4), groups), [("relay", 1), ("relay", 2), ("publish", 9)]
    # Killed after the first commit, and run again.
    assert relay_table(log.ref, log, relay, markers[:1], applied) == [5]  # type: ignore[arg-type]
    made = relay_table(log.ref, log, relay, markers, applied)  # type: ignore[arg-type]
    assert made == [5, 6, 7]
    for old, new in zip(relay.snapshots, made, strict=True):
        assert set(log.ref.load(new).to_pyarrow_table()["user"].to_pylist()) == before[old] - {7}
    every = named_files(log.ref, {})
    needed = {path for version in made for path in live_files(log.ref, version).paths}
    assert {first, third} <= every - needed
    delete_files(str(place), every - needed, {})
    assert cut_log(log.ref, log, made[0], {}) == 5  # type: ignore[arg-type]
    assert cut_log(log.ref, log, made[0], {}) == 0  # type: ignore[arg-type]
    for old, new in zip(relay.snapshots, made, strict=True):
        assert set(log.ref.load(new).to_pyarrow_table()["user"].to_pylist()) == before[old] - {7}
    assert min(log_versions(log.ref, {}).values()) == made[0]
    assert {u for p in place.glob("*.parquet") for u in pq.read_table(p)["user"].to_pylist()} == {1, 2, 3, 4, 5, 6, 8}
    told = [line for commit in place.glob("_delta_log/*.json") for line in commit.read_text().splitlines()]
    bounds = [json.loads(json.loads(line)["add"]["stats"])["minValues"]["user"] for line in told if '"add"' in line]
    assert bounds
    assert 7 not in bounds
