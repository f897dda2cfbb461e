"""Backfills: the same result as a plain slow form, in the table that holds the columns, published as one version."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change, Strategy
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import QualityGateError, UsageError
from dedup_storage.lake.engine.status import Shuffled, counted_shuffles
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.iceberg import branch
from dedup_storage.lake.iceberg.format import IcebergFormat
from dedup_storage.lake.iceberg.merge import merge_into
from dedup_storage.sources.raw import RawLog
from tests.spark.backfilling import USERS, data_files, left_behind, log, make, with_y
from tests.spark.helpers import flat_rows, flat_schema, frame, same_rows


@pytest.fixture
def ds(spark: SparkSession, settings: Settings) -> Dataset:
    return make(spark, settings)


@pytest.mark.parametrize("strategy", list(Strategy))
def test_each_strategy_gives_the_plain_result(
    spark: SparkSession, ds: Dataset, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    files = IcebergFormat.files

    def listed(tables: IcebergFormat, meta: DatasetMetadata, table: str, snapshot_id: int) -> DataFrame:
        looks.append(table)
        return files(tables, meta, table, snapshot_id)

    monkeypatch.setattr(IcebergFormat, "files", listed)
    moved: list[Shuffled] = []

    def merged(*arguments: Any) -> None:
        with counted_shuffles(spark) as shuffled:
            merge_into(*arguments)
        moved.append(shuffled)

    monkeypatch.setattr(branch, "merge_into", merged)
    before = {name: data_files(ds, name, 1) for name in ("requests", "impressions")}
    summary = ds.backfill(
        Change(expressions={"y": "y + 10"}),
        Affected(users=[1, 5]),
        run_id="b",
        strategy=strategy,
        part_segments=2,
        gate=strategy is Strategy.OVERWRITE,
    )
    assert (summary.version, summary.table, summary.sequence_bytes_written) == (2, "impressions", 0)
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "user_id in (1, 5)", "y + 10"))
    same_rows(ds.logs(1), log(spark, [1, 2]).frame)
    assert data_files(ds, "requests", 2) == before["requests"]
    # By the plan, and once for all parts of those that take out whole segments.
    assert len(looks) == 1 + (strategy is Strategy.OVERWRITE)
    actual = {c.quantity: (c.planned, c.actual) for c in summary.planned_and_actual}
    assert actual["rows"][0] == actual["rows"][1]
    assert actual["segments"][0] == actual["segments"][1]
    assert actual["bytes_read"][1] > 0
    if strategy is Strategy.MERGE_ON_READ:
        assert actual["rows"][1] == 2 * 2 * 3
        assert actual["deletion_vectors"][0] == actual["deletion_vectors"][1]
        assert before["impressions"] < data_files(ds, "impressions", 2)
        # A mark and a new row for each; none of the rows beside them.
        assert sum(shuffled.rows for shuffled in moved) == 2 * actual["rows"][1]
    else:
        assert actual["deletion_vectors"] == (0, 0)
    assert left_behind(ds) == []
    # The same run again changes nothing, and one command takes it back.
    again = ds.backfill(Change(expressions={"y": "y + 10"}), Affected(users=[1, 5]), run_id="b")
    assert (again.already_published, again.version) == (True, 2)
    ds.rollback(1)
    same_rows(ds.logs(), log(spark, [1, 2]).frame)


@pytest.mark.long
def test_backfill_over_backfill_over_append(spark: SparkSession, ds: Dataset) -> None:
    """Deletion vectors of one run are replaced by the next one's, and taken out with their files."""
    expected = log(spark, [1, 2]).frame
    for number, strategy in enumerate((Strategy.MERGE_ON_READ, Strategy.MERGE_ON_READ, Strategy.COPY_ON_WRITE)):
        users = [1, 5] if number == 0 else [5, 7]
        ds.backfill(Change(expressions={"y": "y + 10"}), Affected(users=users), strategy=strategy, gate=False)
        expected = with_y(expected, f"user_id in ({', '.join(map(str, users))})", "y + 10")
        if number == 0:
            raw = log(spark, [2, 3], 500)
            ds.write(raw, gate=False)
            expected = expected.unionByName(raw.frame)
        same_rows(ds.logs(), expected)


def test_flat_layout_and_request_columns(spark: SparkSession, settings: Settings) -> None:
    ds = make(spark, settings, layout="flat")
    change = Change(expressions={"country": "concat(country, size(hist))", "y": "y + user_id"})
    ds.backfill(change, Affected(where="user_id % 3 = 1"), run_id="b", gate=False)
    hit = F.col("user_id") % 3 == 1
    expected = log(spark, [1, 2]).frame
    expected = expected.withColumn("country", F.expr("if(user_id % 3 = 1, concat(country, size(hist)), country)"))
    expected = expected.withColumn("y", F.when(hit, F.col("y") + F.col("user_id")).otherwise(F.col("y")).cast("int"))
    same_rows(ds.logs(), expected)


@pytest.mark.long
def test_request_columns_of_split_layout(spark: SparkSession, ds: Dataset) -> None:
    summary = ds.backfill(
        Change(expressions={"country": "upper(concat(country, '!'))"}), Affected(users=[3]), gate=False
    )
    assert summary.table == "requests"
    assert summary.sequence_bytes_written > 0
    expected = log(spark, [1, 2]).frame
    same_rows(ds.logs(), expected.withColumn("country", F.expr("if(user_id = 3, concat(country, '!'), country)")))


def test_impressions_from_columns_of_their_request(spark: SparkSession, ds: Dataset) -> None:
    ds.backfill(
        Change(expressions={"y": "size(hist) * 100 + length(country)"}), Affected(first_date="2024-01-02"), gate=False
    )
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "date(ts) = '2024-01-02'", "size(hist) * 100 + 2"))


@pytest.mark.slow
def test_a_function(spark: SparkSession, ds: Dataset) -> None:
    def rank(df: DataFrame) -> DataFrame:
        from pyspark.sql import Window

        order = Window.partitionBy("user_id").orderBy("request_id", "position")
        return df.withColumn("y", F.row_number().over(order))

    ds.backfill(Change(function=rank, columns=("y",)), Affected(users=[2, 9]), part_segments=1, gate=False)
    found = ds.logs().filter("user_id in (2, 9)")
    assert sorted(r["y"] for r in found.filter("user_id = 2").collect()) == list(range(1, 7))
    rest = log(spark, [1, 2]).frame.filter("user_id not in (2, 9)")
    same_rows(ds.logs().filter("user_id not in (2, 9)"), rest)


def test_a_function_changes_no_rows_but_those_it_got(spark: SparkSession, settings: Settings, ds: Dataset) -> None:
    def everyone(_: DataFrame) -> DataFrame:
        return spark.table(f"{settings.catalog.name}.{ds.name}.impressions").withColumn("y", F.lit(7))

    summary = ds.backfill(Change(function=everyone, columns=("y",)), Affected(users=[2]), gate=False)
    assert {c.quantity: c.planned for c in summary.planned_and_actual}["segments"] == 2
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "user_id = 2", "7"))


@pytest.mark.parametrize("strategy", [None, Strategy.MERGE_ON_READ])
def test_replacement_rows(spark: SparkSession, ds: Dataset, strategy: Strategy | None) -> None:
    rows = frame(spark, [(1, 1, 0, 7), (1, 1, 2, 8), (4, 4, 1, None), (99, 1, 0, 5)], "user_id int, "
                                 "request_id int, position int, y int")  # fmt: skip
    summary = ds.backfill(Change(rows=rows, columns=("y",)), strategy=strategy, gate=False)
    assert {c.quantity: c.planned for c in summary.planned_and_actual}["segments"] <= 2
    found = {(r.user_id, r.request_id, r.position): r.y for r in ds.impressions().collect()}
    plain = {(r.user_id, r.request_id, r.position): r.y for r in ds.impressions(1).collect()}
    assert found == {**plain, (1, 1, 0): 7, (1, 1, 2): 8, (4, 4, 1): None}


@pytest.mark.long
def test_users_changed_since_a_version(spark: SparkSession, ds: Dataset) -> None:
    ds.backfill(Change(expressions={"y": "7"}), Affected(users=[4]), strategy=Strategy.MERGE_ON_READ, gate=False)
    summary = ds.backfill(Change(expressions={"y": "y + 1"}), Affected(changed_since=1), gate=False)
    expected = with_y(log(spark, [1, 2]).frame, "user_id = 4", "8")
    same_rows(ds.logs(), expected)
    assert summary.version == 3
    nothing = ds.backfill(Change(expressions={"y": "y + 1"}), Affected(changed_since=3), gate=False)
    assert (nothing.version, nothing.hints) == (3, ("no row is affected; nothing was published",))


@pytest.mark.slow
def test_a_named_sample(spark: SparkSession, ds: Dataset) -> None:
    ds.samples.make("half", fraction=0.5, seed=1)
    ds.samples.make("late", fraction=0.5, seed=1, start="2024-01-02")
    chosen = {row["user_id"] for row in ds.samples.users("half").collect()}
    assert 0 < len(chosen) < USERS
    inside = f"user_id in ({', '.join(map(str, chosen))})"
    ds.backfill(Change(expressions={"y": "y + 1"}), Affected(sample="half"), gate=False)
    plain = with_y(log(spark, [1, 2]).frame, inside, "y + 1")
    same_rows(ds.logs(), plain)
    ds.backfill(Change(expressions={"y": "9"}), Affected(sample="late"), gate=False)
    same_rows(ds.logs(), with_y(plain, f"{inside} and date(ts) = '2024-01-02'", "9"))
    ds.samples.make("capped", fraction=0.5, caps={"requests": 1})
    for who, words in (
        (Affected(sample="capped"), "the sample capped caps users"),
        (Affected(sample="half", users=[1]), "users are named twice"),
        (Affected(sample="whole"), "has no sample whole"),
    ):
        with pytest.raises(UsageError, match=words):
            ds.plan_backfill(Change(expressions={"y": "1"}), who)


@pytest.mark.long
def test_string_users_by_a_table(spark: SparkSession, settings: Settings, name: str) -> None:
    types = "user_id string, request_id bigint, ts timestamp, country string, hist array<bigint>, item bigint, y int"
    rows = [(f"u'{r[0]}", *r[1:]) for r in flat_rows([1, 2], users=USERS)]
    raw = RawLog.from_frame(frame(spark, rows, types), flat_schema(date_grain="month"))
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, gate=False)
    users = frame(spark, [("u'3",), ("u'8",), ("u'8",)], "who string")
    for strategy in Strategy:
        ds.backfill(Change(expressions={"y": "y + 1"}), Affected(users=users), strategy=strategy, gate=False)
    same_rows(ds.logs(), with_y(raw.frame, 'user_id in ("u\'3", "u\'8")', "y + 3"))


@pytest.mark.long
def test_a_feature_group_is_backfilled_and_stays_one(spark: SparkSession, ds: Dataset) -> None:
    """One column of a group for some users: no other table is written, and the definition stays."""
    ds.features.add("size", {"n": "cast(size(hist) as double)"}, not_null=True, run_id="add", gate=False)
    before = {name: data_files(ds, name, 2) for name in ("requests", "impressions")}
    with pytest.raises(QualityGateError, match="would get nulls: 2 in n"):
        ds.backfill(Change(expressions={"n": "if(user_id = 1, null, n)"}), Affected(users=[1, 2]))
    who = Affected(users=[1, 2])
    change = Change(expressions={"n": "n + length(country)"})
    summary = ds.backfill(change, who, strategy=Strategy.MERGE_ON_READ, gate=False)
    assert (summary.table, summary.version, summary.sequence_bytes_written) == ("fg_size", 3, 0)
    assert {name: data_files(ds, name, 3) for name in before} == before
    plain = log(spark, [1, 2]).frame.withColumn("n", F.expr("cast(size(hist) + if(user_id in (1, 2), 2, 0) as double)"))
    same_rows(ds.logs(), plain.select(*ds.logs().columns))
    assert ds.features()["size"].names == ("n",)
    done = ds.maintain(expire=False, orphans=False)
    assert done.version == 4
    assert ds.features()["size"] == ds.features(3)["size"]
    same_rows(ds.logs(), plain.select(*ds.logs().columns))
