"""Delta without Spark: the table of events, staged files, names and settings."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from dedup_storage import faults
from dedup_storage.config import load_settings
from dedup_storage.errors import DatasetNotFoundError, UsageError, VersionNotFoundError
from dedup_storage.lake.delta import files
from dedup_storage.lake.delta.files import (
    exchanged_actions,
    live_files,
    parquet_actions,
    replaced_files,
    restored_actions,
)
from dedup_storage.lake.delta.layout import (
    bucket_column,
    file_properties,
    generated_columns,
    iceberg_names,
    not_null,
    partition_columns,
    writer_names,
)
from dedup_storage.lake.delta.metadata import DeltaLake, DeltaMetadata
from dedup_storage.lake.delta.publish import DeltaPublisher
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.delta.stage import StagedFiles, StagedStore
from dedup_storage.lake.delta.status import delta_status
from dedup_storage.lake.delta.versions import VersionLog
from dedup_storage.lake.folders import delete_files, list_files, read_text, write_text
from dedup_storage.layout import DatasetSpec, Layout, TableRole
from dedup_storage.schema import DateGrain, LogSchema
from dedup_storage.table_properties import encoding_properties


def spec(grain: DateGrain = DateGrain.DAY, layout: Layout = Layout.SPLIT, **more: str) -> DatasetSpec:
    schema = LogSchema.from_dict(
        {
            "user": "u",
            "request": "r",
            "item": "i",
            "event_time": "t",
            "sequences": [{"column": "h"}],
            "columns": {"t": "request", **dict.fromkeys(more, "request")},
        }
    )
    source = {"u": "bigint", "r": "bigint", "t": "timestamp", "h": "array<bigint>", "i": "int", **more}
    return DatasetSpec.build("d", schema, source, layout=layout, date_grain=grain, buckets=4)


@pytest.fixture
def log(tmp_path: Path) -> VersionLog:
    made = VersionLog(str(tmp_path))
    made.create()
    made.create()
    return made


def test_each_version_is_decided_by_one_writer(log: VersionLog) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: log.claim(1, {"run-id": f"run-{i}"}), range(8)))
    assert won.count(True) == 1
    facts = log.load().claims[1]
    assert facts["run-id"] == f"run-{won.index(True)}"
    assert int(facts["created-ms"]) > 0
    assert not log.claim(1, {"run-id": "late"})
    assert not log.claim(3, {"run-id": "early"})
    assert log.publish(1, {"snapshots": {"requests": 3}})
    assert not log.publish(1, {"snapshots": {"requests": 4}})
    assert log.load().published == {1: {"snapshots": {"requests": 3}}}


def test_pins_and_expiry(log: VersionLog) -> None:
    for number in (1, 2):
        assert log.claim(number, {"run-id": f"r{number}"})
        assert log.publish(number, {"snapshots": {}})
    log.pin(1, "kept")
    log.pin(1, "kept")
    log.pin(1, "paper")
    assert log.load().pins == {1: {"kept", "paper"}}
    log.unpin(1, "kept")
    assert log.load().pins == {1: {"paper"}}
    assert (log.forget([1]), set(log.load().published)) == ([], {1, 2})
    log.unpin(1, "paper")
    assert (log.forget([1]), log.forget([1])) == ([1], [])
    found = log.load()
    assert (set(found.published), set(found.claims), found.pins) == ({2}, {1, 2}, {})
    # Versions go on where they were, though events are gone.
    assert not log.claim(2, {})
    assert log.claim(3, {})


@pytest.mark.parametrize("first", ["pin", "expiry"])
def test_a_pin_and_an_expiry_at_once(log: VersionLog, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever commits first wins; the other sees it, and no pin that answered is void."""
    for number in (1, 2):
        log.claim(number, {})
        log.publish(number, {"snapshots": {}})
    point = "maintain:remembered" if first == "pin" else "pin:looked"
    done: list[str] = []

    def watcher(reached: str) -> None:
        if reached == point and not done:
            done.append(reached)
            log.pin(1, "golden") if first == "pin" else log.forget([1])

    monkeypatch.setattr(faults, "watcher", watcher)
    if first == "pin":
        assert log.forget([1]) == []
        assert (set(log.load().published), log.load().pins) == ({1, 2}, {1: {"golden"}})
    else:
        with pytest.raises(VersionNotFoundError, match=r"version 1 of .* expired while it was pinned"):
            log.pin(1, "golden")
        assert (set(log.load().published), log.load().pins) == ({2}, {})
    assert done == [point]


@pytest.mark.parametrize("first", ["rollback", "expiry"])
def test_a_rollback_and_an_expiry_at_once(log: VersionLog, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever commits first wins: no version expires that a decided one brings back, and none is brought back after."""
    for number in (1, 2):
        log.claim(number, {})
        log.publish(number, {"snapshots": {}})
    facts = {"kind": "rollback", "parent": "1"}
    if first == "rollback":

        def watcher(reached: str) -> None:
            if reached == "maintain:remembered":
                monkeypatch.setattr(faults, "watcher", None)
                assert log.claim(3, facts, 1)

        monkeypatch.setattr(faults, "watcher", watcher)
        assert log.forget([1]) == []
        assert log.forget([1]) == []
        assert log.publish(3, {"snapshots": {}})
        assert log.forget([1]) == [1]
    else:
        written = log._write

        def expire(*args: Any) -> None:
            monkeypatch.setattr(log, "_write", written)
            assert log.forget([1]) == [1]
            written(*args)

        monkeypatch.setattr(log, "_write", expire)
        assert not log.claim(3, facts, 1)
        assert not log.claim(3, facts, 1)
        assert set(log.load().claims) == {1, 2}
        assert log.claim(3, {})
    assert set(log.load().published) == ({2, 3} if first == "rollback" else {2})


def test_many_events_are_joined(log: VersionLog) -> None:
    for number in range(1, 33):
        log.claim(number, {"run-id": str(number)})
        log.publish(number, {"snapshots": {}})
        log.tidy()
    assert len(DeltaTable(log.uri).file_uris()) < 10
    found = log.load()
    assert sorted(found.published) == list(range(1, 33))
    assert [found.claims[n]["run-id"] for n in range(1, 33)] == [str(n) for n in range(1, 33)]


def test_staged_files_are_remembered_and_discarded(tmp_path: Path) -> None:
    store = StagedStore(str(tmp_path), {})
    place = "event_date=2024-01-01/user_bucket=0/part-1.parquet"
    add = {"path": place, "size": 5, "stats": json.dumps({"numRecords": 3}), "partitionValues": {}}
    staged = StagedFiles("requests", (json.dumps({"add": add}),), (("2024-01-01", ""),), (1, 2), {"k": "v"})
    store.put("run/1", staged)
    store.put("run/2", StagedFiles("impressions"))
    assert store.get("run/1", "requests") == staged
    assert store.get("run/1", "impressions") is None
    assert (staged.paths, staged.rows, staged.size_bytes) == ([place], 3, 5)
    assert store.paths("requests") == [place]
    assert store.tables("run/1") == ["requests"]
    write_text(f"{tmp_path}/requests/{place}", "data")
    store.discard("run/1")
    assert store.tables("run/1") == []
    assert [f.base_name for f in list_files(str(tmp_path))] == ["impressions.json"]
    assert read_text(f"{tmp_path}/nothing") is None
    assert delete_files(str(tmp_path), ["nothing"]) == 0


def test_partitions_and_generated_columns() -> None:
    assert partition_columns(spec()) == ("event_date", "user_bucket")
    assert partition_columns(spec(DateGrain.MONTH)) == ("event_month", "user_bucket")
    assert partition_columns(spec(DateGrain.NONE)) == ("user_bucket",)
    assert bucket_column(spec(user_bucket="int")) == "_user_bucket"
    assert generated_columns(spec())["user_bucket"] == ("int", "pmod(hash(`u`), 4)")
    assert set(generated_columns(spec(DateGrain.MONTH))) == {"user_bucket", "event_month"}
    adopted = spec().model_copy(update={"adopted": True})
    assert (generated_columns(adopted), partition_columns(adopted)) == ({}, ("event_date",))
    assert DatasetSpec.from_json(adopted.to_json()) == adopted
    assert "adopted" not in spec().to_json()
    flat = spec(layout=Layout.FLAT)
    assert not_null(flat, flat.anchor) == {"u", "r", "event_date", "position"}
    assert not_null(spec(), spec().table(TableRole.REQUESTS)) == {"u", "r", "event_date"}


def test_file_settings_are_those_of_iceberg_by_other_names() -> None:
    table = spec().table(TableRole.REQUESTS)
    properties = file_properties(spec(), table)
    assert properties["parquet.page.size"] == str(8 * 1024**2)
    assert properties["parquet.enable.dictionary#h.list.element"] == "false"
    wanted = {k: v for k, v in encoding_properties(spec(), table).items() if k.startswith("write.parquet")}
    back = iceberg_names(properties)
    assert {k: back.get(k) for k in wanted if "codec" not in k} == {k: v for k, v in wanted.items() if "codec" not in k}


def _table(place: Path, days: list[str]) -> DeltaRef:
    rows = pa.table(
        {
            "u": pa.array(range(len(days)), pa.int64()),
            "event_date": pa.array(days).cast(pa.date32()),
            "user_bucket": pa.array([i % 2 for i in range(len(days))], pa.int32()),
        }
    )
    write_deltalake(str(place), rows, partition_by=["event_date", "user_bucket"], mode="append")
    return DeltaRef("requests", str(place), {})


def test_a_replacement_takes_out_the_files_of_its_segments(tmp_path: Path) -> None:
    ref = _table(tmp_path / "t", ["2024-01-01", "2024-01-01", "2024-01-02", "2024-02-01"])

    def gone(replaced: tuple[tuple[str, str], ...], buckets: tuple[int, ...] | None = None) -> set[tuple[str, str]]:
        actions = replaced_files(spec(), ref, StagedFiles("requests", (), replaced, buckets))
        values = [json.loads(a)["remove"]["partitionValues"] for a in actions]
        return {(v["event_date"], v["user_bucket"]) for v in values}

    assert gone((("2024-01-01", "2024-01-02"),)) == {("2024-01-01", "0"), ("2024-01-01", "1")}
    assert gone((("2024-01-01", ""),), (1,)) == {("2024-01-01", "1"), ("2024-02-01", "1")}
    assert len(gone((("", ""),))) == 4
    assert gone((("2024-03-01", ""),)) == set()


def test_files_that_spark_does_not_read_are_not_adopted(tmp_path: Path) -> None:
    for place in ("a b.parquet", "part/b.parquet", "_tmp/c.parquet", ".d.parquet", "_SUCCESS"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"i": [1, 2, 3]}), tmp_path / place)
    added = [json.loads(action)["add"] for action in parquet_actions(str(tmp_path), {})]
    assert [a["path"] for a in added] == [f"file://{tmp_path}/a%20b.parquet", f"file://{tmp_path}/part/b.parquet"]
    assert [json.loads(a["stats"])["numRecords"] for a in added] == [3, 3]


@pytest.mark.parametrize(
    ("folder", "root", "expected"),
    [
        (
            "abfss://c@a.dfs.core.windows.net/a log",
            "c/a log",
            "abfss://c@a.dfs.core.windows.net/a%20log/part/b.parquet",
        ),
        ("hdfs://node:8020/logs/", "/logs/", "hdfs://node:8020/logs/part/b.parquet"),
        ("s3a://bucket", "bucket", "s3a://bucket/part/b.parquet"),
        ("file:///logs", "/logs", "file:///logs/part/b.parquet"),
    ],
)
def test_files_are_adopted_at_the_address_of_their_folder(
    folder: str, root: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store's file system knows nothing of accounts and name nodes."""
    stored = tmp_path / root.strip("/") / "part" / "b.parquet"
    stored.parent.mkdir(parents=True)
    pq.write_table(pa.table({"i": [1]}), stored)
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    info = pafs.FileInfo(f"{root.rstrip('/')}/part/b.parquet", type=pafs.FileType.File, mtime_ns=0, size=1)
    monkeypatch.setattr(files, "open_folder", lambda *_: (store, root))
    monkeypatch.setattr(files, "list_files", lambda *_: [info])
    added = [json.loads(action)["add"]["path"] for action in parquet_actions(folder, {})]
    assert added == [expected]


def test_adopted_files_are_found_whatever_their_names(tmp_path: Path) -> None:
    """The log names them quoted, once, and so do the actions that are read from it, from a checkpoint too."""
    names = {"part 1%20.parquet", "b#?é.parquet"}
    for name in names:
        write_text(f"{tmp_path}/a log/{name}", "")
        pq.write_table(pa.table({"i": [1]}), tmp_path / "a log" / name)
    place = tmp_path / "t"
    table = DeltaTable.create(str(place), schema=pa.schema([("i", pa.int64())]))
    actions = parquet_actions(str(tmp_path / "a log"), {})
    (place / "_delta_log" / f"{1:020}.json").write_text("\n".join(actions))
    ref = DeltaRef("t", str(place), {})
    for _ in range(2):
        assert {ref.place(path) for path in live_files(ref).paths} == {f"{tmp_path}/a log/{name}" for name in names}
        assert restored_actions(ref, actions) == []
        table.update_incremental()
        table.create_checkpoint()


def test_a_restore_takes_out_and_names_again(tmp_path: Path) -> None:
    ref = _table(tmp_path / "t", ["2024-01-01", "2024-01-02"])
    old = live_files(ref)
    wanted = [json.dumps({"add": {"path": p}}) for p in old.paths[:1]] + [json.dumps({"add": {"path": "other"}})]
    actions = [json.loads(a) for a in restored_actions(ref, wanted)]
    assert [a["remove"]["path"] for a in actions if "remove" in a] == old.paths[1:]
    assert [a["add"]["path"] for a in actions if "add" in a] == ["other"]
    assert (old.rows, old.where(pa.array([False, False])).rows) == (2, 0)


def test_a_file_with_other_hidden_rows_is_another_file() -> None:
    vector = {"storageType": "u", "pathOrInlineDv": "ab", "offset": 1, "sizeInBytes": 34, "cardinality": 2}
    plain, marked, kept = ({"path": path, "size": 9, "partitionValues": {"d": "1"}} for path in ("a", "a", "b"))
    marked["deletionVector"] = vector
    found = exchanged_actions(*([json.dumps({"add": add}) for add in adds] for adds in ((plain, kept), (marked, kept))))
    removed, added = (json.loads(action) for action in found)
    told = {key: removed["remove"][key] for key in ("path", "partitionValues", "deletionVector")}
    assert told == {"path": "a", "partitionValues": {"d": "1"}, "deletionVector": vector}
    assert added == {"add": plain}


def test_a_lake_without_the_dataset(tmp_path: Path) -> None:
    settings = load_settings(
        Path("conf/local.yaml"), {"DEDUP_STORAGE_WAREHOUSE": str(tmp_path), "DEDUP_STORAGE_FORMAT": "delta"}
    )
    lake = DeltaLake(settings)
    assert lake.datasets() == []
    (tmp_path / "clicks" / "requests").mkdir(parents=True)
    assert lake.find("clicks") is None
    with pytest.raises(DatasetNotFoundError, match="no dataset clicks of format delta"):
        lake.load("clicks")


def test_what_a_run_staged_goes_but_not_the_files_of_its_version(tmp_path: Path) -> None:
    """A run that was killed just after its version was published leaves the description of files that are live."""
    settings = load_settings(
        Path("conf/local.yaml"), {"DEDUP_STORAGE_WAREHOUSE": str(tmp_path), "DEDUP_STORAGE_FORMAT": "delta"}
    )
    lake = DeltaLake(settings)
    publisher = DeltaPublisher(None, lake)  # type: ignore[arg-type]
    name = spec().name
    store, events = publisher.store(name), lake.log(name)
    events.create()
    for number in (1, 2, 3):
        write_text(f"{store.uri}/requests/f{number}.parquet", "rows")
        action = json.dumps({"add": {"path": f"f{number}.parquet", "size": 4, "stats": '{"numRecords": 1}'}})
        store.put(f"run/{number}", StagedFiles("requests", (action,)))
    for version in (1, 2):
        assert events.claim(version, {"run-id": "run", "attempt": f"run/{version}"})
        if version == 1:
            events.publish(1, {"snapshots": {}, "rows": {}})
    meta = DeltaMetadata(spec(), {}, events.load())
    assert (meta.pending, meta.decided) == (2, {"run/1": 1, "run/2": 2})
    assert [run.run_id for run in delta_status(lake, meta).runs] == ["run"]
    assert publisher.let_go(meta, "run") == {"requests"}
    assert sorted(p.name for p in (tmp_path / name / "requests").iterdir()) == ["f1.parquet", "f2.parquet"]
    # The pending one is completed from its description.
    assert set(store.attempts()) == {"run/2"}
    assert delta_status(lake, meta).runs == ()


@pytest.mark.parametrize("decided", [False, True])
def test_what_is_taken_back_is_published_whole_or_not_at_all(tmp_path: Path, decided: bool) -> None:
    """A run that was taken for stopped decides its version before it is looked at, or finds nothing to publish."""
    store = StagedStore(str(tmp_path), {})
    place = f"{tmp_path}/requests/f.parquet"
    write_text(place, "rows")
    action = json.dumps({"add": {"path": "f.parquet", "size": 4, "stats": '{"numRecords": 1}'}})
    store.put("run/1", StagedFiles("requests", (action,)))
    store.put_note("run/1", "other", '{"groups": [], "table": "other"}')

    def look() -> bool:
        # Who completes a version that is decided after this.
        assert (store.get("run/1", "requests"), store.read_note("run/1", "other")) == (None, None)
        assert set(store.attempts()) == {"run/1"}
        return decided

    assert store.take_back("run/1", look) == ([] if decided else ["other", "requests"])
    assert (read_text(place) is not None) == decided
    assert (store.get("run/1", "requests") is not None) == decided
    assert (store.read_note("run/1", "other") is not None) == decided
    assert store.tables("run/1") == (["other", "requests"] if decided else [])


def test_erasures_are_events(log: VersionLog) -> None:
    log.record_erasure("gdpr", "begun")
    log.record_erasure("gdpr", "done")
    log.record_erasure("other", "begun")
    assert log.load().erasures == {"gdpr": "done", "other": "begun"}


def test_samples_and_tags_are_events(log: VersionLog) -> None:
    log.record_sample("half", '{"a": 1}')
    log.record_sample("half", '{"a": 2}')
    log.record_sample("third", '{"a": 3}')
    log.tag("sm_half", "sample-1", 4)
    log.tag("sm_half", "sample-1", 4)
    log.tag("sm_half", "sample-2", 5)
    assert log.load().samples == {"half": '{"a": 2}', "third": '{"a": 3}'}
    assert log.load().tags == {("sm_half", "sample-1"): 4, ("sm_half", "sample-2"): 5}
    log.untag("sm_half", "sample-1")
    log.untag("sm_half", "none")
    log.drop_sample("half")
    assert log.load().samples == {"third": '{"a": 3}'}
    assert log.load().tags == {("sm_half", "sample-2"): 5}
    log.record_sample("half", '{"a": 4}')
    assert log.load().samples["half"] == '{"a": 4}'
    log.tag("sm_half", "x' OR '1'='1", 5)
    with pytest.raises(UsageError, match="characters that it may not"):
        log.untag("sm_half", "x' OR '1'='1")


def test_file_settings_by_the_writer_s_names_and_back() -> None:
    start = "write.parquet.dict-encoding-enabled.column."
    told = {
        "write.parquet.page-size-bytes": "1048576",
        f"{start}hist.element": "true",
        f"{start}price": "false",
        f"{start}seen.element.name": "false",
    }
    assert writer_names(told) == {
        "parquet.page.size": "1048576",
        "parquet.enable.dictionary#hist.list.element": "true",
        "parquet.enable.dictionary#price": "false",
        "parquet.enable.dictionary#seen.list.element.name": "false",
    }
    assert iceberg_names(writer_names(told)) == told
    # Keys of a map look like fields of a struct, and the writer takes the level from no table.
    assert writer_names({f"{start}tags.key": "true", "write.parquet.compression-level": "9"}) == {}
