"""Joins of a dataset's own tables: the log comes back without a shuffle, in every layout; the command."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from dedup_storage.cli import app
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.joins.tables import table_frame, write_join
from dedup_storage.errors import UsageError
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import flat_rows, flat_schema, frame, multiset, same_rows
from tests.spark.join_tables import exchanges, plain_join

pytestmark = pytest.mark.usefixtures("compiled")


def dataset(spark: SparkSession, settings: Settings, name: str, **options: str) -> Dataset:
    schema = flat_schema(request=["request_id"], buckets=3)
    raw = RawLog.from_frame(frame(spark, flat_rows(range(1, 4))), schema)
    ds = Dataset.create(spark, settings, name, schema, raw, **options)  # type: ignore[arg-type]
    ds.write(raw, gate=False)
    later = RawLog.from_frame(frame(spark, flat_rows(range(5, 7), first_request=50)), schema)
    ds.write(later, gate=False)
    return ds


@pytest.mark.long
@pytest.mark.parametrize(
    "grain", ["day", pytest.param("month", marks=pytest.mark.slow), pytest.param("none", marks=pytest.mark.slow)]
)
def test_tables_of_a_dataset(spark: SparkSession, settings: Settings, name: str, grain: str) -> None:
    ds = dataset(spark, settings, name, date_grain=grain)
    on = ("user_id", "request_id", "event_date")
    requests, impressions = table_frame(ds.handle, "requests"), table_frame(ds.handle, "impressions")
    result = ds.join()
    assert exchanges(result) == 0
    assert multiset(result) == multiset(plain_join(impressions, requests, on, "inner"))
    assert exchanges(ds.logs()) == 0
    same_rows(result.select(ds.logs().columns), ds.logs())
    assert multiset(ds.join("requests", "impressions", how="anti", version=1)) == Counter()
    assert ds.join("requests", "impressions", how="semi", version=1).count() == 15
    narrow = ds.join(columns=["country", "item"])
    assert narrow.columns == [*on, "item", "country"]
    with pytest.raises(UsageError, match="has no table logs"):
        ds.join("logs")
    with pytest.raises(UsageError, match="neither impressions nor requests has a column coutry"):
        ds.join(columns=["coutry"])


def test_a_flat_dataset_and_another_table(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = dataset(spark, settings, name, layout="flat")
    facts = f"{settings.catalog.name}.{name}.facts"
    spark.sql(f"CREATE TABLE {facts} (user_id bigint, age int) USING iceberg PARTITIONED BY (bucket(3, user_id))")
    spark.sql(f"INSERT INTO {facts} VALUES (0, 30), (1, 40), (2, 50), (99, 60)")
    logs = table_frame(ds.handle, "logs").drop("event_date", "ts")
    result = ds.join("logs", facts, on=["user_id"], how="left", columns=["item", "age"])
    assert exchanges(result) == 0
    expected = plain_join(logs, spark.table(facts), ("user_id",), "left").select(result.columns)
    assert multiset(result) == multiset(expected)


@pytest.mark.long
def test_the_command(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = dataset(spark, settings, name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", settings.warehouse)

    def run(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, ["join", "--dataset", name, *arguments])
        return done.exit_code, done.stdout, done.stderr

    status, out, _ = run("--explain")
    assert status == 0
    assert "no row moves" in out
    status, out, _ = run("--explain", "--json", "-")
    assert json.loads(out)["shuffle_free"] is True
    status, _, err = run("-o", str(tmp_path / "rows"), "--column", "item", "--column", "country", "--json", "s.json")
    assert status == 0, err
    rows = pq.read_table(tmp_path / "rows")
    assert json.loads(Path("s.json").read_text())["rows"] == rows.num_rows == ds.logs().count()
    table = f"{settings.catalog.name}.{name}.joined"
    assert run("--table", table, "--how", "semi")[0] == 0
    same_rows(spark.table(table), table_frame(ds.handle, "impressions"))
    for arguments, why in (
        (("-o", str(tmp_path / "rows")), "exist"),
        (("--table", table), "exists"),
        (("--table", "joined"), "not fully named"),
        ((), "--output, --table or --explain"),
        (("--explain", "--left", "impresions"), "impressions"),
        (("-o", "x", "--on", "nothing"), "nothing"),
        (("-o", "x", "--how", "outer"), "inner or left or semi or anti"),
    ):
        status, _, err = run(*arguments)
        assert status == 2, (arguments, err)
        assert why in err
        assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    with pytest.raises(UsageError, match="where the rows go"):
        write_join(ds.logs(), left="a", right="b", how="inner", output=None, table=None)
