"""Delta tables that a lake opens: each version of one once, and never one that stands for another."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from dedup_storage.errors import StorageError
from dedup_storage.lake.delta import opened
from dedup_storage.lake.delta.opened import OpenedTables, opened_tables
from dedup_storage.lake.delta.versions import VersionLog


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None]]:
    """Tables whose logs were read, and the version that was asked for."""
    found: list[tuple[str, int | None]] = []
    load: Callable[..., Any] = opened.load_delta

    def counted(uri: str, options: Any = None, version: int | None = None) -> Any:
        found.append((uri.rsplit("/", 1)[-1], version))
        return load(uri, options, version)

    monkeypatch.setattr(opened, "load_delta", counted)
    return found


def numbers(place: Path, *values: int) -> str:
    """A table to which one commit each adds a number."""
    for value in values:
        write_deltalake(str(place), pa.table({"i": [value]}), mode="append")
    return str(place)


def test_each_version_is_opened_once(tmp_path: Path, looks: list[tuple[str, int | None]]) -> None:
    uri, tables = numbers(tmp_path / "t", 1, 2), OpenedTables()
    assert [tables.load(uri).version(), tables.load(uri).version(), tables.load(uri, 1).version()] == [1, 1, 1]
    assert tables.rows(uri)["i"].to_pylist() == tables.rows(uri)["i"].to_pylist() == [2, 1]
    assert looks == [("t", None)]
    numbers(tmp_path / "t", 3)
    assert sorted(tables.rows(uri)["i"].to_pylist()) == [1, 2, 3]
    assert [tables.load(uri, 0).version(), tables.load(uri, 0).version(), tables.load(uri).version()] == [0, 0, 2]
    assert looks == [("t", None), ("t", None), ("t", 0)]


def test_a_table_that_was_made_anew_is_opened_anew(tmp_path: Path) -> None:
    uri, tables = numbers(tmp_path / "t", 1, 2), OpenedTables()
    assert len(tables.rows(uri)) == 2
    shutil.rmtree(uri)
    with pytest.raises(StorageError, match="cannot be read"):
        tables.load(uri)
    numbers(tmp_path / "t", 7, 8)
    assert sorted(tables.rows(uri)["i"].to_pylist()) == [7, 8]
    assert tables.load(uri, 1).to_pyarrow_table()["i"].to_pylist() != [1, 2]


def test_a_version_without_its_commit_is_not_kept(tmp_path: Path, looks: list[tuple[str, int | None]]) -> None:
    """A log that was cleaned up tells of its versions by a checkpoint, and says no more which commit made them."""
    uri, tables = numbers(tmp_path / "t", 1, 2), OpenedTables()
    DeltaTable(uri).create_checkpoint()
    (tmp_path / "t" / "_delta_log" / f"{1:020}.json").unlink()
    assert [len(tables.rows(uri)), tables.load(uri).version()] == [2, 1]
    assert looks == [("t", None)] * 2


def test_what_is_changed_is_nobody_elses(tmp_path: Path, looks: list[tuple[str, int | None]]) -> None:
    uri, tables = numbers(tmp_path / "t", 1), OpenedTables()
    tables.load(uri)
    own = tables.take(uri)
    write_deltalake(own, pa.table({"i": [2]}), mode="append")
    assert own.version() == 1
    assert tables.load(uri).version() == 1
    assert tables.load(uri) is not own
    assert looks == [("t", None)] * 2


@pytest.mark.parametrize(("bound", "most"), [("_MOST_VERSIONS", 3), ("_MOST_FILES", 9)])
def test_few_are_kept(
    tmp_path: Path, looks: list[tuple[str, int | None]], monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    """Of versions with 1, 2, 3 and 4 files three are kept: three, or nine files of the last."""
    monkeypatch.setattr(opened, bound, most)
    uri, tables = numbers(tmp_path / "t", *range(4)), OpenedTables()
    for version in (0, 1, 2, 3, 3, 1, 2, 0, 3):
        assert tables.load(uri, version).version() == version
    assert [version for _, version in looks] == [0, 1, 2, 3, 0, 3]


def test_all_of_a_process_share_what_is_opened(tmp_path: Path, looks: list[tuple[str, int | None]]) -> None:
    uri, store = numbers(tmp_path / "t", 1), {"s3.region": "r"}
    first, second = opened_tables({}, store), opened_tables({}, store)
    assert first.load(uri) is second.load(uri)
    assert opened_tables({}, {}).load(uri) is not first.load(uri)
    assert len(looks) == 2


def test_of_two_that_change_a_table_each_has_its_own(tmp_path: Path) -> None:
    """A claim rests on the state of the table that was looked at: one that others move on would accept a second one."""
    uri, tables = numbers(tmp_path / "t", 1), OpenedTables()
    tables.load(uri)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(tables.take, [uri] * 4))
    assert len({id(table) for table in found}) == 4


def test_another_process_opens_its_own(tmp_path: Path) -> None:
    uri, tables = numbers(tmp_path / "t", 1), OpenedTables({"a": "b"})
    tables.load(uri)
    assert pickle.loads(pickle.dumps(tables)).load(uri).version() == 0  # noqa: S301 - our own bytes


def test_events_are_read_once_until_one_comes(tmp_path: Path, looks: list[tuple[str, int | None]]) -> None:
    log, other = VersionLog(str(tmp_path)), VersionLog(str(tmp_path))
    log.create()
    assert log.claim(1, {"attempt": "a"})
    looks.clear()
    assert log.load().claims.keys() == log.load().claims.keys() == {1}
    assert other.publish(1, {"snapshots": {"t": 1}, "rows": {}})
    assert not log.publish(1, {"snapshots": {"t": 2}, "rows": {}})
    assert log.load().published == {1: {"snapshots": {"t": 1}, "rows": {}}}
    # What one look gives is not what the next one gives: events are folded anew.
    log.load().published.clear()
    assert log.load().published.keys() == {1}
