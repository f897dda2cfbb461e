"""Adoption: a log that is there becomes version 1, its files where they lie; what cannot be adopted is told why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage import faults
from dedup_storage.config import Settings
from dedup_storage.dataset.adopt import AdoptSummary, adopt
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import (
    DatasetExistsError,
    DatasetNotFoundError,
    DedupStorageError,
    DuplicateRowsError,
    InputError,
    UsageError,
)
from dedup_storage.lake.iceberg.metadata import Lake
from dedup_storage.layout import Layout
from dedup_storage.reader import DedupDataset
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.schema import Grain, LogSchema
from dedup_storage.sources.raw import RawLog
from tests.contract.test_convert import StoppedError
from tests.contract.test_reader import rows_of
from tests.integration.test_reader_spark import read
from tests.spark.helpers import FLAT_TYPES, RARELY, flat_rows, flat_schema, frame, same_rows


def numbered(spark: SparkSession, days: list[int], first_request: int = 0) -> RawLog:
    """A log with its own position and event date."""
    rows = [(*r[:6], r[6], i % 3) for i, r in enumerate(flat_rows(days, first_request=first_request))]
    df = frame(spark, rows, f"{FLAT_TYPES}, position int").withColumn("event_date", F.to_date("ts"))
    return RawLog.from_frame(df, schema())


def schema() -> LogSchema:
    columns = {"country": "request", "event_date": "request"}
    return flat_schema(position="position", columns=columns, date_grain=None, buckets=None)


def lay(spark: SparkSession, lake: Settings, kind: str, name: str, tmp_path: Path) -> str:
    """A log as somebody else wrote it, rows in no order; gives its source."""
    df = numbered(spark, [1, 2]).frame.orderBy(F.xxhash64("request_id", "item")).repartition(2)
    if kind == "parquet":
        df.write.parquet(str(tmp_path / "log"))
        return str(tmp_path / "log")
    if lake.format == "delta":
        df.write.format("delta").option("delta.enableDeletionVectors", "false").partitionBy("event_date").save(
            str(tmp_path / "log")
        )
        return str(tmp_path / "log")
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {lake.catalog.name}.{name}_old")
    df.writeTo(f"{lake.catalog.name}.{name}_old.log").partitionedBy("event_date").create()
    return f"{name}_old.log"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "table"])
def test_an_adopted_log_is_read_written_to_and_converted(
    spark: SparkSession, lake: Settings, name: str, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = lay(spark, lake, kind, name, tmp_path)
    if kind == "parquet":
        # Files are named by their full address, however the folder was.
        monkeypatch.chdir(tmp_path)
        source = "./log"
    before = sorted(tmp_path.rglob("*.parquet"))
    summary = adopt(spark, lake, name, schema(), source, "take")
    assert (summary.version, summary.rows, summary.dated) == (1, 30, True)
    assert sorted(tmp_path.rglob("*.parquet")) == before
    ds = Dataset.open(spark, lake, name)
    first = numbered(spark, [1, 2])
    same_rows(ds.logs(), first.frame)
    assert ds.requests().count() == 10
    files = [f.path for t in dataset_files(lake, name).tables for f in t.files]
    assert len(files) == summary.files
    if kind == "parquet":
        assert {f.rsplit("/", 1)[-1] for f in files} == {p.name for p in before}
    assert read(DedupDataset(name, lake)) == rows_of(ds)
    with pytest.raises(DatasetExistsError):
        adopt(spark, lake, name, schema(), source)
    again = adopt(spark, lake, name, schema(), source, "take")
    assert (again.already_published, again.version, again.kind) == (True, 1, summary.kind)
    with pytest.raises(UsageError, match="the run take published version 1 with another request: the source differs"):
        adopt(spark, lake, name, schema(), f"{source}_2", "take")

    more = numbered(spark, [3], 100)
    assert ds.write(more, run_id="more", gate=False).version == 2
    same_rows(ds.logs(), first.frame.unionByName(more.frame))
    assert read(DedupDataset(name, lake, version=2)) == rows_of(ds, 2)
    with pytest.raises(UsageError, match="cannot be replaced"):
        ds.write(more, mode="replace", gate=False)
    with pytest.raises(UsageError, match="dedup-storage convert"):
        ds.forget_users([1])
    done = ds.convert(f"{name}_b", layout=Layout.SPLIT, buckets=4, run_id="turn")
    assert (done.requests, done.impressions) == (15, 45)
    same_rows(Dataset.open(spark, lake, f"{name}_b").logs(), ds.logs())


@pytest.mark.crash
@pytest.mark.parametrize("then", ["adopt", pytest.param("write", marks=RARELY)])
def test_nothing_of_a_stopped_adoption_is_taken_for_another_log(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """On Delta; the folder of another table that has files is left as it is."""
    lake = settings.model_copy(update={"format": "delta"})
    places = [str(tmp_path / str(number)) for number in range(2)]
    for number, place in enumerate(places):
        numbered(spark, [1 + number], 100 * number).frame.write.parquet(place)

    for point in ("adopt:claimed", "adopt:published"):
        stop_at(monkeypatch, point, lambda: adopt(spark, lake, name, schema(), places[0]))
        with pytest.raises(DatasetNotFoundError):
            Dataset.open(spark, lake, name)
    another_log(spark, lake, name, places[1], then)
    shutil.rmtree(f"{lake.local_warehouse}/{name}/_versions")
    with pytest.raises(DatasetExistsError, match="a table logs that is no dataset's"):
        adopt(spark, lake, name, schema(), places[0])
    assert DeltaTable(f"{lake.local_warehouse}/{name}/logs").file_uris()


def another_log(spark: SparkSession, lake: Settings, name: str, place: str, then: str) -> None:
    """Adopt, or write, the rows of another log than one whose adoption was stopped, and find these alone."""
    second = numbered(spark, [2], 100)
    if then == "adopt":
        adopt(spark, lake, name, schema(), place)
        ds = Dataset.open(spark, lake, name)
    else:
        ds = Dataset.create(spark, lake, name, schema(), second, layout=Layout.FLAT, buckets=1)
        ds.write(second, gate=False)
    assert [(v.version, v.job) for v in ds.versions()] == [(1, then)]
    same_rows(ds.logs(), second.frame)


def stop_at(monkeypatch: pytest.MonkeyPatch, point: str, run: Callable[[], object]) -> None:
    """Run something that dies at a point, as it must."""

    def stop(reached: str) -> None:
        if reached == point:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(faults, "watcher", stop)
        with pytest.raises(StoppedError):
            run()


@pytest.mark.crash
def test_a_stopped_adoption_of_an_iceberg_table_is_gone_on_with(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has a new name by then; no other log is taken for it, and nothing is made beside it."""
    catalog, source = settings.catalog.name, lay(spark, settings, "table", name, tmp_path)
    other = lay(spark, settings, "table", f"{name}_b", tmp_path)
    first = numbered(spark, [1, 2])

    def take(log: str = source) -> AdoptSummary:
        return adopt(spark, settings, name, schema(), log, "take")

    stop_at(monkeypatch, "adopt:marked", take)
    # Nothing is moved: it may still become another dataset.
    assert spark.table(f"{catalog}.{source}").count() == 30
    stop_at(monkeypatch, "adopt:moved", take)
    with pytest.raises(DatasetNotFoundError, match=rf"Finish it: dedup-storage adopt {source} --dataset {name}"):
        Dataset.open(spark, settings, name)
    with pytest.raises(DatasetExistsError, match=rf"lies {name}.logs, which was the table {source} before"):
        take(other)
    with pytest.raises(DatasetExistsError, match=rf"ALTER TABLE {name}.logs RENAME TO {source}"):
        Dataset.create(spark, settings, name, schema(), first, buckets=1)
    spark.sql(f"CREATE TABLE {catalog}.{source} (a int) USING iceberg")
    with pytest.raises(DatasetExistsError, match=rf"there is a table {source} again"):
        take()
    spark.sql(f"DROP TABLE {catalog}.{source}")
    done = take()
    assert (done.version, done.rows, done.already_published) == (1, 30, False)
    ds = Dataset.open(spark, settings, name)
    same_rows(ds.logs(), first.frame)
    assert [(v.run_id, v.job) for v in ds.versions()] == [("take", "adopt")]
    assert take().already_published
    assert spark.table(f"{catalog}.{other}").count() == 30


@pytest.mark.crash
@pytest.mark.parametrize("then", [pytest.param("adopt", marks=RARELY), "write"])
def test_nothing_of_a_stopped_adoption_of_files_is_taken_for_another_log_on_iceberg(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    places = [str(tmp_path / str(number)) for number in range(2)]
    for number, place in enumerate(places):
        numbered(spark, [1 + number], 100 * number).frame.write.parquet(place)
    for point in ("adopt:created", "adopt:filled"):
        stop_at(monkeypatch, point, lambda: adopt(spark, settings, name, schema(), places[0]))
    another_log(spark, settings, name, places[1], then)
    # Files of others stay, and the tables that named them leave nothing.
    assert spark.read.parquet(places[0]).count() == 15
    assert [p.name for p in Path(str(settings.local_warehouse), name).iterdir()] == ["logs"]


@pytest.mark.crash
def test_an_adopted_table_that_got_its_name_back_is_adopted_again(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path
) -> None:
    """As its rows are now, whatever it had been as a dataset."""
    catalog, source = settings.catalog.name, lay(spark, settings, "table", name, tmp_path)
    adopt(spark, settings, name, schema(), source)
    more = numbered(spark, [3], 100)
    Dataset.open(spark, settings, name).write(more, run_id="more", gate=False)
    with pytest.raises(InputError, match=rf"{name}.logs is a table of the dataset {name}"):
        adopt(spark, settings, f"{name}_c", schema(), f"{name}.logs")
    spark.sql(f"ALTER TABLE {catalog}.{name}.logs RENAME TO {source}")
    spark.sql(f"ALTER TABLE {catalog}.{source} UNSET TBLPROPERTIES ('write.wap.enabled')")
    last = numbered(spark, [4], 200)
    last.frame.writeTo(f"{catalog}.{source}").append()
    done = adopt(spark, settings, f"{name}_b", schema(), source)
    assert (done.version, done.rows) == (1, 60)
    ds = Dataset.open(spark, settings, f"{name}_b")
    same_rows(ds.logs(), numbered(spark, [1, 2]).frame.unionByName(more.frame).unionByName(last.frame))
    assert [(v.version, v.job) for v in ds.versions()] == [(1, "adopt")]


@pytest.mark.crash
def test_a_refused_adoption_moves_nothing(spark: SparkSession, settings: Settings, name: str, tmp_path: Path) -> None:
    catalog, source = settings.catalog.name, lay(spark, settings, "table", name, tmp_path)
    fields = ", ".join(f"{f.name} {f.dataType.simpleString()}" for f in spark.table(f"{catalog}.{source}").schema)
    spark.sql(f"CREATE TABLE {catalog}.{name}_old.nothing ({fields}) USING iceberg")
    with pytest.raises(InputError, match=r"_old.nothing holds no rows"):
        adopt(spark, settings, name, schema(), f"{name}_old.nothing")
    assert spark.table(f"{catalog}.{name}_old.nothing").count() == 0
    # Somebody's release of the log: versions are named in the same way.
    spark.sql(f"ALTER TABLE {catalog}.{source} CREATE TAG v1")
    with pytest.raises(InputError, match=rf"{source} has names that versions have: v1"):
        adopt(spark, settings, name, schema(), source)
    assert "v1" in Lake(settings).catalog.load_table(tuple(source.split("."))).metadata.refs
    spark.sql(f"ALTER TABLE {catalog}.{source} DROP TAG v1")
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {catalog}.{name}")
    spark.sql(f"CREATE TABLE {catalog}.{name}.logs (a int) USING iceberg")
    with pytest.raises(DatasetExistsError, match="a table logs that is no dataset's"):
        adopt(spark, settings, name, schema(), source)
    raw = numbered(spark, [1])
    with pytest.raises(DatasetExistsError, match="a table logs that is no dataset's"):
        Dataset.create(spark, settings, name, schema(), raw, layout=Layout.FLAT, buckets=1)
    assert spark.table(f"{catalog}.{source}").count() == 30


@pytest.mark.long
def test_what_cannot_be_adopted(spark: SparkSession, lake: Settings, name: str, tmp_path: Path) -> None:
    place = str(tmp_path / "log")
    numbered(spark, [1]).frame.write.parquet(place)
    with pytest.raises(InputError, match="no usable key: the schema names no position"):
        adopt(spark, lake, name, flat_schema(columns={"country": "request", "event_date": "request"}), place)
    twice = schema().model_copy(update={"position": "y"})
    with pytest.raises(DedupStorageError, match="no usable key"):
        adopt(spark, lake, name, twice.model_copy(update={"labels": ()}), place)
    pq.write_table(pa.table({"user_id": ["a"], "item": [1]}), f"{place}/the-other.parquet")
    with pytest.raises(InputError, match=r"different schemas: user_id is int64 in .* and string in the-other"):
        adopt(spark, lake, name, schema(), place)
    with pytest.raises(InputError, match="there is no file at"):
        adopt(spark, lake, name, schema(), f"{place}-not-there")
    split = str(tmp_path / "split")
    numbered(spark, [1]).frame.write.partitionBy("country").parquet(split)
    with pytest.raises(InputError, match="keeps columns in its paths"):
        adopt(spark, lake, name, schema(), split)
    numbered(spark, [1]).frame.unionByName(numbered(spark, [1]).frame).write.parquet(str(tmp_path / "double"))
    with pytest.raises(DuplicateRowsError, match="30 rows share theirs"):
        adopt(spark, lake, name, schema(), str(tmp_path / "double"))
    undated = numbered(spark, [1, 2]).frame.withColumn("event_date", F.expr("if(request_id = 3, null, event_date)"))
    undated.write.parquet(str(tmp_path / "undated"))
    with pytest.raises(InputError, match=r"event_date of .* is null in 3 rows"):
        adopt(spark, lake, name, schema(), str(tmp_path / "undated"))
    with pytest.raises(DedupStorageError):
        Dataset.open(spark, lake, name)
    # A log without event dates cannot lie by day; that ended in an error of pydantic's own.
    numbered(spark, [1]).frame.drop("event_date").write.parquet(str(tmp_path / "timeless"))
    asked = {"position": "position", "columns": {"country": "request"}}
    for asks, told in (({"buckets": None}, "date_grain: day"), ({"date_grain": None}, "buckets: 4")):
        with pytest.raises(InputError, match=f"the schema asks for {told}, .*Leave {told.partition(':')[0]} out"):
            adopt(spark, lake, name, flat_schema(**asked, **asks), str(tmp_path / "timeless"))
    # A date of the impression is a column as any other.
    turned = numbered(spark, [1]).frame.withColumn("event_date", F.expr("date_add(event_date, position % 2)"))
    turned.write.parquet(str(tmp_path / "turned"))
    own = schema().model_copy(update={"columns": {**schema().columns, "event_date": Grain.IMPRESSION}})
    adopt(spark, lake, name, own, str(tmp_path / "turned"))
    same_rows(Dataset.open(spark, lake, name).logs(), turned)
