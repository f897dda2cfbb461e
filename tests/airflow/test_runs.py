"""Every DAG run by a real Airflow, each task a real spark-submit on the embedded default; a retry; a backfill."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import day, flat_rows, flat_schema, frame, multiset, same_rows

if TYPE_CHECKING:
    from tests.airflow.conftest import Airflow

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

DONE = "success"


def log(spark: SparkSession, number: int) -> RawLog:
    return RawLog.from_frame(frame(spark, flat_rows([number], first_request=100 * number)), flat_schema())


@pytest.fixture(scope="module")
def ds(spark: SparkSession, settings: Settings) -> Dataset:
    """Three days and a feature group of the first two."""
    raw = log(spark, 1)
    ds = Dataset.create(spark, settings, f"t_{uuid.uuid4().hex[:12]}", raw.schema, raw)
    for number in (1, 2):
        ds.write(log(spark, number), run_id=f"day-{number}", gate=False)
    ds.features.add("size", {"n": "size(hist)"}, run_id="add", gate=False)
    ds.write(log(spark, 3), run_id="day-3", gate=False)
    return ds


def runs(ds: Dataset) -> list[str]:
    return [v.run_id for v in ds.versions()]


def with_y(df: DataFrame, number: int, value: str) -> DataFrame:
    hit = F.expr(f"to_date(ts) = date'2024-01-{number:02d}'")
    return df.withColumn("y", F.when(hit, F.expr(value)).otherwise(F.col("y")).cast("int"))


def kept(df: DataFrame) -> DataFrame:
    """The rows as they are now, whatever happens to the dataset."""
    return df.localCheckpoint()


def test_write_creates_a_dataset(spark: SparkSession, settings: Settings, airflow: Airflow, tmp_path: Path) -> None:
    name = f"t_{uuid.uuid4().hex[:12]}"
    log(spark, 5).frame.write.parquet(str(tmp_path / "2024-01-05"))
    schema = tmp_path / "schema.yaml"
    schema.write_text(yaml.safe_dump(flat_schema().model_dump(mode="json", exclude_defaults=True)))
    given = {"dataset": name, "source": f"{tmp_path}/{{date}}", "schema": str(schema)}
    tasks = airflow.test_dag("write", "2024-01-06T02:00:00+00:00", **given)
    assert [t["state"] for t in tasks] == [DONE]
    ds = Dataset.open(spark, settings, name)
    assert runs(ds) == ["write-2024-01-05"]
    assert multiset(ds.logs()) == multiset(log(spark, 5).frame.select(*ds.logs().columns))


def test_a_killed_write_is_finished_by_the_retry(
    spark: SparkSession, ds: Dataset, airflow: Airflow, tmp_path: Path
) -> None:
    log(spark, 4).frame.write.parquet(str(tmp_path / "2024-01-04"))
    expected = multiset(ds.logs(features=()).unionByName(log(spark, 4).frame))
    before = runs(ds)
    airflow.fail_once("publish:after-claim")
    given = {"dataset": ds.name, "source": f"{tmp_path}/{{date}}"}
    tasks = airflow.test_dag("write", "2024-01-05T02:00:00+00:00", **given)
    assert [(t["state"], t["tries"]) for t in tasks] == [(DONE, 2)]
    assert runs(ds) == [*before, "write-2024-01-04"]
    assert multiset(ds.logs(features=())) == expected


def test_backfill(ds: Dataset, airflow: Airflow) -> None:
    expected = kept(with_y(ds.logs(), 2, "y + 10"))
    given = {"dataset": ds.name, "set": "y=y+10", "name": "more"}
    for _ in range(2):
        tasks = airflow.test_dag("backfill", "2024-01-03T04:00:00+00:00", **given)
        assert [t["state"] for t in tasks] == [DONE]
    same_rows(ds.logs(), expected)
    assert runs(ds)[-1] == "backfill-more-2024-01-02"


def test_late_labels(spark: SparkSession, ds: Dataset, airflow: Airflow, tmp_path: Path) -> None:
    row = flat_rows([1], first_request=100)[0]
    rows = [(row[0], row[1], row[5], 77, day(9)), (row[0], row[1], row[5], 76, day(8))]
    types = "user_id bigint, request_id bigint, item bigint, y int, at timestamp"
    spark.createDataFrame(rows, types).write.parquet(str(tmp_path / "2024-01-09T05"))
    hit = f"user_id = {row[0]} and request_id = {row[1]} and item = {row[5]}"
    expected = kept(ds.logs().withColumn("y", F.expr(f"cast(if({hit}, 77, y) as int)")))
    given = {"dataset": ds.name, "source": f"{tmp_path}/{{hour}}", "label": "y", "time": "at"}
    tasks = airflow.test_dag("late_labels", "2024-01-09T06:30:00+00:00", **given)
    assert [t["state"] for t in tasks] == [DONE]
    same_rows(ds.logs(), expected)
    assert runs(ds)[-1] == "late-labels-2024-01-09T05"


def test_refresh_features(ds: Dataset, airflow: Airflow) -> None:
    assert ds.logs().filter("n is null").count() > 0
    tasks = airflow.test_dag("refresh_features", "2024-01-04T05:00:00+00:00", dataset=ds.name, group="size")
    assert [t["state"] for t in tasks] == [DONE]
    assert ds.logs().filter("n is null or n <> size(hist)").count() == 0
    assert runs(ds)[-1] == "refresh-size-2024-01-03"


def test_report_compares_with_the_last_one(ds: Dataset, airflow: Airflow, tmp_path: Path) -> None:
    given = {"dataset": ds.name, "output": str(tmp_path)}
    tasks = airflow.test_dag("report", "2024-01-08T06:00:00+00:00", **given)
    assert [t["state"] for t in tasks] == [DONE]
    first = tmp_path / f"{ds.name}-2024-01-08.json"
    # The same dataset a week later is no regression; half of its bytes, had they been the last report's, are one.
    (tmp_path / f"{ds.name}-2024-01-15.json").write_text(first.read_text())
    tasks = airflow.test_dag("report", "2024-01-22T06:00:00+00:00", **given)
    assert [t["state"] for t in tasks] == [DONE]
    second = tmp_path / f"{ds.name}-2024-01-22.json"
    told: dict[str, Any] = json.loads(second.read_text())
    second.write_text(json.dumps(told | {"stored_bytes": told["stored_bytes"] // 2}))
    tasks = airflow.test_dag("report", "2024-01-29T06:00:00+00:00", fails=True, **given)
    assert [(t["state"], t["tries"]) for t in tasks] == [("failed", 2)]


def test_maintain(ds: Dataset, airflow: Airflow) -> None:
    change, some = Change(expressions={"y": "y + 1"}), Affected(users=[1])
    ds.backfill(change, some, strategy=Strategy.MERGE_ON_READ, gate=False)
    expected = kept(ds.logs())
    given = {"dataset": ds.name, "keep_versions": 1, "keep_days": 0}
    tasks = airflow.test_dag("maintain", "2024-01-07T03:00:00+00:00", **given)
    assert [t["state"] for t in tasks] == [DONE]
    same_rows(ds.logs(), expected)
    assert runs(ds) == ["maintain-2023-12-31"]
    assert ds.maintain(dry_run=True, expire=False, orphans=False).compaction[0].hidden_rows_before == 0


def test_airflow_backfill_over_three_days(spark: SparkSession, settings: Settings, airflow: Airflow) -> None:
    """A scheduler runs one interval for each day; a second backfill of the same days changes nothing."""
    raw = log(spark, 1)
    ds = Dataset.create(spark, settings, f"t_{uuid.uuid4().hex[:12]}", raw.schema, raw)
    for number in (1, 2, 3, 4):
        ds.write(log(spark, number), run_id=f"day-{number}", gate=False)
    expected = ds.logs()
    for number in (1, 2, 3):
        expected = with_y(expected, number, "y + 10")
    expected = kept(expected)
    dag_id = "dedup_storage_backfill"
    before = len(airflow.tasks(dag_id))
    conf = json.dumps({"dataset": ds.name, "set": "y=y+10", "name": "three"})
    with airflow.scheduler():
        airflow.run("dags", "reserialize")
        airflow.run("dags", "unpause", dag_id, "--yes")
        create = ["backfill", "create", "--dag-id", dag_id, "--max-active-runs", "1", "--dag-run-conf", conf]
        # Logical dates are the beginnings of the intervals, at the hour of the schedule.
        airflow.run(*create, "--from-date", "2024-01-01", "--to-date", "2024-01-03T23:00:00")
        found = airflow.wait(dag_id, before + 3, 400)
    assert {"2024-01-01", "2024-01-02", "2024-01-03"} <= set(found)
    assert sorted(runs(ds)[4:]) == [f"backfill-three-2024-01-0{n}" for n in (1, 2, 3)]
    same_rows(ds.logs(), expected)
