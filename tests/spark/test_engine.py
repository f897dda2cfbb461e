"""Every private call into Spark, Iceberg and Delta, made once: what fails here, a new release has changed.

One test an adapter of ``dedup_storage.lake.engine``; its name and the assertion that fails say which call it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.engines import installed_engine
from dedup_storage.lake.engine.atomic import AtomicChange, atomic_change
from dedup_storage.lake.engine.delta import DeltaLog
from dedup_storage.lake.engine.iceberg import load_table
from dedup_storage.lake.engine.plans import Operator, executed_plan, is_deterministic, planned_bytes
from dedup_storage.lake.engine.scans import delta_read, iceberg_read
from dedup_storage.lake.engine.sessions import in_own_session, is_stopped, move_to, run_session
from dedup_storage.lake.engine.status import counted_reads, counted_shuffles
from dedup_storage.lake.formats import scan_of
from dedup_storage.lake.iceberg.metadata import Lake
from dedup_storage.spark.errors import JAVA_ERRORS

SIZE = "spark.sql.autoBroadcastJoinThreshold"


class Table:
    """An Iceberg table of days and users, one snapshot a day."""

    def __init__(self, spark: SparkSession, settings: Settings, name: str) -> None:
        self.spark, self.lake, self.place = spark, Lake(settings), (name, "t")
        self.full = f"{settings.catalog.name}.{name}.t"
        spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {settings.catalog.name}.{name}")
        spark.sql(
            f"CREATE TABLE {self.full} (user_id bigint, day date, v int, nested array<struct<a: int>>, m map<int, int>)"
            " USING iceberg PARTITIONED BY (day, bucket(2, user_id)) TBLPROPERTIES"
            " ('format-version' = '3', 'write.delete.mode' = 'merge-on-read', 'write.wap.enabled' = 'true')"
        )

    def add(self, day: int, session: SparkSession | None = None) -> None:
        rows = (
            (session or self.spark)
            .range(8)
            .selectExpr(
                "id AS user_id",
                f"date'2024-01-0{day}' AS day",
                f"CAST(id + 10 * {day} AS int) AS v",
                "array(named_struct('a', 1)) AS nested",
                "map(1, 2) AS m",
            )
        )
        rows.coalesce(1).writeTo(self.full).append()

    def stage(self, day: int) -> int:
        """A snapshot that no branch has."""
        session = run_session(self.spark)
        session.conf.set("spark.wap.id", f"attempt-{day}")
        self.add(day, session)
        found = [s for s in self.snapshots() if s.summary is not None and s.summary["wap.id"] == f"attempt-{day}"]
        return int(found[-1].snapshot_id)

    def loaded(self) -> Any:
        return self.lake.catalog.load_table(self.place)

    def snapshots(self) -> list[Any]:
        return list(self.loaded().metadata.snapshots)

    def refs(self) -> dict[str, int]:
        return {name: ref.snapshot_id for name, ref in self.loaded().metadata.refs.items()}

    def rows(self, at: int | str | None = None) -> int:
        reader = self.spark.read if at is None else self.spark.read.option("versionAsOf", str(at))
        return reader.table(self.full).count()

    def java(self) -> Any:
        return load_table(self.spark, self.full)

    def change(self) -> AbstractContextManager[AtomicChange]:
        return atomic_change(self.spark, self.full)


@pytest.fixture
def table(spark: SparkSession, settings: Settings, name: str) -> Table:
    made = Table(spark, settings, name)
    made.add(1)
    return made


def test_the_session_is_that_of_the_installed_release(spark: SparkSession) -> None:
    """Another Spark may be named by SPARK_HOME, and other jars by the settings: what passes here passed on these."""
    engine = installed_engine()
    assert spark.version == pyspark.__version__
    assert spark.version.split(".")[:2] == engine.spark.split(".")[:2]
    loaded = {place.rpartition("/")[2] for place in spark.conf.get("spark.jars", "").split(",")}
    assert {"{}_{}-{}.jar".format(*jar.split(":")) for jar in engine.jars} <= loaded


def test_sessions_are_copied_and_frames_move_between_them(spark: SparkSession) -> None:
    assert not is_stopped(spark)
    session = run_session(spark)
    session.conf.set(SIZE, "7")
    moved = move_to(session, spark.range(3))
    assert moved.sparkSession is session
    assert moved.count() == 3
    spark.range(2).createOrReplaceTempView("engine_view")
    own = in_own_session(spark.table("engine_view"), {SIZE: "9"})
    assert own.count() == 2
    assert (own.sparkSession.conf.get(SIZE), session.conf.get(SIZE)) == ("9", "7")
    assert spark.conf.get(SIZE) not in ("7", "9")
    assert own.sparkSession.table("engine_view").count() == 2


def test_runs_share_python_processes(spark: SparkSession) -> None:
    """A session of its own would have a parent process of its own, which stays until the application ends."""

    def parents(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield pa.record_batch([pa.array([os.getppid()] * batch.num_rows)], names=["parent"])

    found = {
        row["parent"]
        for _ in range(2)
        for row in run_session(spark).range(1).mapInArrow(parents, "parent bigint").collect()
    }
    assert len(found) == 1


def test_the_optimizer_tells_sizes_and_determinism(spark: SparkSession, tmp_path: Path) -> None:
    place = str(tmp_path / "rows")
    spark.range(100).coalesce(1).write.parquet(place)
    stored = sum(file.stat().st_size for file in Path(place).glob("*.parquet"))
    assert planned_bytes(spark.read.parquet(place)) == stored
    one, other = (spark.read.parquet(place).alias(side) for side in ("one", "other"))
    assert 0 < planned_bytes(one.crossJoin(other)) <= 2 * stored
    assert is_deterministic(spark.range(3))
    assert not is_deterministic(spark.range(3).withColumn("r", F.rand()))


def test_operators_of_a_plan(spark: SparkSession) -> None:
    left = spark.range(9).selectExpr("id", "id + 1 AS other")
    right = spark.range(9).selectExpr("id", "id + 2 AS more")
    plan = Operator(executed_plan(left.hint("merge").join(right, "id", "left")))
    (join,) = (node for node in plan.walk() if node.is_join)
    assert (join.join_type, join.keys, len(join.children)) == ("left", (("id", "id"),), 2)
    (sort, *_) = (node for node in join.walk() if node.is_sort)
    assert (sort.detail, sort.children[0].is_shuffle) == ("id", True)
    assert sort.children[0].layout.startswith("hashpartitioning(id")
    small = Operator(executed_plan(left.join(F.broadcast(right), F.expr("other = more + 0"))))
    (join,) = (node for node in small.walk() if node.is_join)
    assert join.keys == (("other", "more"),)
    assert any(node.is_broadcast and node.detail == "to every executor" for node in small.walk())


def test_reads_of_an_iceberg_table(spark: SparkSession, table: Table) -> None:
    frame = table.spark.read.table(table.full).filter("v > 0")
    (read,) = filter(None, (iceberg_read(node) for node in Operator(executed_plan(frame)).walk()))
    assert read.table == table.full
    assert read.snapshot_id == table.refs()["main"]
    assert set(read.columns) == {"user_id", "day", "v", "nested", "m"}
    assert [(p.column, p.transform, p.type) for p in read.partitions] == [
        ("day", "identity", "date"),
        ("user_id", "bucket[2]", "long"),
    ]
    assert (read.splits, read.spec_id, set(read.grouped_by)) == (2, 0, {p.field for p in read.partitions})
    leaves = read.leaves(("v", "nested", "m"))
    assert [(kind, repeated) for _, kind, repeated in leaves] == [("int", False)] + [("int", True)] * 3
    scan = next(filter(None, (scan_of(node) for node in Operator(executed_plan(frame)).walk())))
    assert (scan.size(spark).rows, len(scan.size(spark).buckets), scan.tells_buckets) == (8, 2, True)


def test_reads_of_a_delta_table(spark: SparkSession, tmp_path: Path) -> None:
    place = str(tmp_path / "d")
    spark.range(5).selectExpr("id", "id % 2 AS p").write.format("delta").partitionBy("p").save(place)
    frame = spark.read.format("delta").load(place).filter("id > 0")
    (read,) = filter(None, (delta_read(node) for node in Operator(executed_plan(frame)).walk()))
    assert (read.uri, read.version, set(read.columns), read.partitions) == (place, 0, {"id", "p"}, ("p",))
    scan = next(filter(None, (scan_of(node) for node in Operator(executed_plan(frame)).walk())))
    assert (scan.size(spark).rows, scan.empty, scan.tells_buckets) == (5, False, False)


def test_what_spark_counted(spark: SparkSession, tmp_path: Path) -> None:
    place = str(tmp_path / "rows")
    spark.range(50_000).coalesce(1).write.parquet(place)
    with counted_reads(spark) as reads:
        rows = spark.read.parquet(place).agg(F.sum("id")).collect()
    assert rows[0][0] == 50_000 * 49_999 // 2
    assert reads.bytes > 0
    spark.range(70).repartition(3).count()
    with counted_shuffles(spark) as moved:
        spark.range(100).repartition(3).count()
    # The rows, and a count for each of the three partitions.
    assert moved.rows == 100 + 3
    assert moved.stored_bytes > 0


def test_references_and_properties_of_an_iceberg_table(table: Table) -> None:
    first = table.refs()["main"]
    table.add(2)
    second = table.refs()["main"]
    java = table.java()
    java.create_branch("side", first)
    java.create_tag("one", first)
    assert table.refs() == {"main": second, "side": first, "one": first}
    assert [java.has_reference(name) for name in ("side", "none")] == [True, False]
    # Expiry by age or number, of whatever tool, takes no snapshot from a branch's line.
    assert table.loaded().refs()["side"].min_snapshots_to_keep == 2**31 - 1
    with pytest.raises(JAVA_ERRORS):
        table.java().create_tag("one", second)
    table.java().point(["one"], second, instead_of="side")
    assert table.refs() == {"main": second, "one": second}
    table.java().remove_tag("one")
    table.java().create_branch("side", first)
    table.java().remove_branch("side")
    assert table.refs() == {"main": second}
    with table.change() as change:
        assert [change.on_main(snapshot) for snapshot in (second, first, 1)] == [True, True, False]
        change.set_main(first)
        change.tag("back", first)
    assert table.refs() == {"main": first, "back": first}
    table.java().point(["main"], second)
    assert table.refs()["main"] == second
    table.java().set_property("mine", "yes")
    assert table.loaded().properties["mine"] == "yes"
    table.java().set_property("mine", None)
    assert "mine" not in table.loaded().properties


def test_staged_snapshots_of_an_iceberg_table(table: Table) -> None:
    first, staged = table.refs()["main"], table.stage(2)
    assert table.rows() == 8
    java = table.java()
    paths = sorted(java.partition_path(file) for file in java.added_files(staged))
    assert paths == ["day=2024-01-02/user_id_bucket=0", "day=2024-01-02/user_id_bucket=1"]
    with table.change() as change:
        assert change.pick(staged) == staged
    assert table.rows() == 16
    java.refresh()
    java.mark({"said": "nothing"})
    assert table.snapshots()[-1].summary["said"] == "nothing"
    java.expire([table.snapshots()[-1].snapshot_id])
    assert len(table.snapshots()) == 2
    # A staged append in place of the rows of a day, in one bucket, then in all.
    again = table.stage(1)
    java = table.java()
    for bucket, kept in ((("user_id", 2, [0]), None), (None, 16)):
        java.stage_replacement(
            java.added_files(again), "day", [("2024-01-01", "2024-01-02")], bucket, {"wap.id": f"r-{kept}"}
        )
        assert table.rows(table.snapshots()[-1].snapshot_id) == kept or bucket is not None
    assert first in {s.snapshot_id for s in table.snapshots()}


def test_branches_and_manifests_of_an_iceberg_table(spark: SparkSession, table: Table) -> None:
    first = table.refs()["main"]
    new = table.stage(1)
    java = table.java()
    java.create_branch("run", first)
    java.refresh()
    old = [str(task.file.file_path) for task in table.loaded().scan().plan_files()]
    gone = java.files_of("run", set(old[:1]))
    assert len(gone) == 1
    java.exchange("run", list(java.added_files(new)), gone, {"part": "1"})
    java = table.java()
    java.mark({"part": "2"}, "run")
    spark.sql(f"DELETE FROM {table.full}.branch_run WHERE v = 11")
    tip = table.refs()["run"]
    line = [s.snapshot_id for s in table.snapshots() if s.snapshot_id not in (first, new)]
    expected = table.rows("run")
    table.java().stage_parts(first, line, {"wap.id": "all"})
    staged = table.snapshots()[-1]
    assert staged.parent_snapshot_id == first
    assert table.rows(staged.snapshot_id) == expected
    assert table.rows() == 8

    table.java().create_branch("anew", tip)
    table.java().lay_anew("anew", tip, [], set(), {"made": "anew"})
    assert table.rows("anew") == expected
    laid = table.loaded().snapshot_by_id(table.refs()["anew"])
    assert laid.summary["made"] == "anew"
    assert not any(m.deleted_files_count for m in laid.manifests(table.loaded().io))

    spark.sql(f"DELETE FROM {table.full} WHERE day = date'2024-01-01'")
    table.add(3)
    table.java().rewrite_manifests({"clean": "yes"})
    main = table.loaded().current_snapshot()
    assert main.summary["clean"] == "yes"
    assert not any(m.deleted_files_count for m in main.manifests(table.loaded().io))
    assert table.rows() == 8


def test_delta_log(spark: SparkSession, tmp_path: Path) -> None:
    place = str(tmp_path / "d")
    spark.range(3).write.format("delta").save(place)
    log = DeltaLog(spark, place)
    actions = log.write(spark.range(3, 7))
    added = [json.loads(action)["add"] for action in actions]
    assert sum(pq.read_metadata(Path(place) / file["path"]).num_rows for file in added) == 4
    assert spark.read.format("delta").load(place).count() == 3
    log.commit(actions, "app", 1)
    # The application's transaction is there, so this changes nothing.
    log.commit(actions, "app", 1)
    assert spark.read.format("delta").load(place).count() == 7
    assert spark.sql(f"DESCRIBE HISTORY delta.`{place}`").count() == 2
    before = {json.loads(action)["add"]["path"] for action in log.files_at(0)}
    after = {json.loads(action)["add"]["path"] for action in log.files_at(1)}
    assert after - before == {file["path"] for file in added}
    log.checkpoint(1)
    assert list((Path(place) / "_delta_log").glob("*1.checkpoint*.parquet"))
