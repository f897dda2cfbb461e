"""What a backfill says before it writes, and refuses without a trace."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import (
    DuplicateRowsError,
    InputError,
    QualityGateError,
    SchemaError,
    UnknownColumnError,
    UsageError,
    VersionNotFoundError,
)
from dedup_storage.lake.iceberg.metadata import snapshot_summary
from tests.spark.backfilling import left_behind, log, make
from tests.spark.helpers import frame, same_rows


@pytest.fixture
def ds(spark: SparkSession, settings: Settings) -> Dataset:
    return make(spark, settings)


def test_the_plan_says_what_will_be_written(spark: SparkSession, ds: Dataset) -> None:
    change, who = Change(expressions={"y": "y + 1"}), Affected(users=[1])
    plan = ds.plan_backfill(change, who)
    assert (plan.table, plan.affected_rows, len(plan.segments), plan.base) == ("impressions", 6, 2, 1)
    assert {u.table for u in plan.untouched} == {"requests"}
    assert all(u.bytes > 0 and u.files > 0 for u in plan.untouched)
    assert plan.segments_total > len(plan.segments)
    assert ds.versions()[-1].version == 1
    assert left_behind(ds) == []
    measured = spark.read.table(f"{ds.settings.catalog.name}.{ds.name}.impressions.files")
    row = measured.agg(F.sum("file_size_in_bytes").alias("b"), F.count("*").alias("n")).first()
    assert row is not None
    assert plan.table_bytes == row["b"]
    # Files this small are mostly footer: writing them anew costs less than a new file beside them.
    assert set(plan.strategies) <= {"overwrite", "copy-on-write"}


def test_the_gate_refuses_and_nothing_remains(spark: SparkSession, settings: Settings) -> None:
    ds = make(spark, settings, checks={"y": {"allowed": [0, 1]}})
    with pytest.raises(QualityGateError, match="y"):
        ds.backfill(Change(expressions={"y": "y + 5"}), Affected(users=[1]))
    assert [v.version for v in ds.versions()] == [1]
    assert left_behind(ds) == []
    same_rows(ds.logs(), log(spark, [1, 2]).frame)


@pytest.mark.long
def test_bad_input_is_refused_before_anything_is_written(spark: SparkSession, ds: Dataset) -> None:
    y = Change(expressions={"y": "y + 1"})
    twice = frame(spark, [(1, 1, 0, 7), (1, 1, 0, 8)], "user_id long, request_id long, position int, y int")
    two = frame(spark, [(1, 2)], "a long, b long")

    def more(df: DataFrame) -> DataFrame:
        return df.unionByName(df)

    def float_keys(df: DataFrame) -> DataFrame:
        return df.withColumn("user_id", F.col("user_id") + F.lit(0.5))

    kind = "user_id long, request_id long, position int"
    half = frame(spark, [(1, 1, 0, 0.7), (1, 1, 1, 1.0)], f"{kind}, y double")
    great = frame(spark, [(1, 1, 0, 3_000_000_000)], f"{kind}, y bigint")
    for change, found in (
        (Change(rows=half, columns=("y",)), "1 new value.*got double"),
        (Change(rows=great, columns=("y",)), "1 new value.*got bigint"),
        (Change(expressions={"y": "y * 1.5"}), "[0-9]+ new values.*got decimal"),
        (Change(expressions={"y": "user_id + 2147483640"}), "24 new values.*got bigint"),
        (Change(expressions={"y": "country"}), "72 new values.*got string"),
        (Change(expressions={"hist": "transform(hist, x -> x / 2)"}), "[0-9]+ new values.*got array<double>"),
    ):
        with pytest.raises(InputError, match=f"the column (y|hist) of .* cannot hold {found}"):
            ds.backfill(change, gate=False)

    def halved(df: DataFrame) -> DataFrame:
        return df.withColumn("y", F.lit(0.5))

    with pytest.raises(InputError, match=r"the column y of impressions cannot hold a new value.*double"):
        ds.backfill(Change(function=halved, columns=("y",)), Affected(users=[1]), gate=False)
    for error, change, who in (
        (UnknownColumnError, Change(expressions={"yy": "1"}), Affected()),
        (UnknownColumnError, Change(expressions={"y": "nothing + 1"}), Affected()),
        (UsageError, Change(expressions={"user_id": "1"}), Affected()),
        (UsageError, Change(expressions={"y": "1", "country": "'x'"}), Affected()),
        (InputError, Change(expressions={"y": "1 +"}), Affected()),
        (InputError, Change(expressions={"y": "y / (user_id - 1)"}), Affected(users=[1])),
        (UnknownColumnError, y, Affected(users=two)),
        (UnknownColumnError, y, Affected(where="nothing = 1")),
        (UsageError, y, Affected(where="rand() < 0.5")),
        (UsageError, y, Affected(users=ds.requests().select("user_id").filter(F.rand() < 0.5))),
        (VersionNotFoundError, y, Affected(changed_since=9)),
        (DuplicateRowsError, Change(rows=twice, columns=("y",)), Affected()),
        (SchemaError, Change(rows=two, columns=("y",)), Affected()),
        (InputError, Change(function=more, columns=("y",)), Affected(users=[1])),
        (UnknownColumnError, Change(function=lambda df: df.drop("y"), columns=("y",)), Affected(users=[1])),
        (InputError, Change(function=float_keys, columns=("y",)), Affected(users=[1])),
    ):
        with pytest.raises(error):
            ds.backfill(change, who, gate=False)
    with pytest.raises(UsageError):
        Change(expressions={"y": "1"}, rows=two)
    with pytest.raises(UsageError):
        Affected(first_date="2024-02-01", last_date="2024-01-01")
    assert [v.version for v in ds.versions()] == [1]
    assert left_behind(ds) == []
    assert snapshot_summary(ds.metadata().anchor.metadata.snapshots[-1])["dedup-storage.run-id"] == "first"
