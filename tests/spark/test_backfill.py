"""Backfills: the same result as a plain slow form, in the table that holds the columns, published as one version."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.errors import (
    ConflictError,
    DuplicateRowsError,
    InputError,
    QualityGateError,
    SchemaError,
    UnknownColumnError,
    UsageError,
    VersionNotFoundError,
)
from dedup_storage.spark.backfill import Affected, Backfill, Change, Strategy
from dedup_storage.spark.dataset import Dataset
from dedup_storage.spark.raw import RawLog
from dedup_storage.tables.metadata import snapshot_summary, tags
from tests.spark.helpers import flat_rows, flat_schema, frame, same_rows

USERS = 12
SLOW = pytest.mark.slow


def log(spark: SparkSession, days: list[int], first_request: int = 0, **schema: Any) -> RawLog:
    return RawLog.from_frame(
        frame(spark, flat_rows(days, users=USERS, first_request=first_request)), flat_schema(**schema)
    )


def make(spark: SparkSession, settings: Settings, name: str, *, layout: str = "split", **schema: Any) -> Dataset:
    raw = log(spark, [1, 2], **schema)
    created = Dataset.create(spark, settings, name, raw.schema, raw, layout=layout)
    created.write(raw, run_id="first", gate=False)
    return created


@pytest.fixture
def ds(spark: SparkSession, settings: Settings, name: str) -> Dataset:
    return make(spark, settings, name)


def data_files(ds: Dataset, table: str, version: int) -> set[str]:
    snapshot_id = ds.metadata().snapshots(version)[table]
    files = ds.spark.read.option("versionAsOf", str(snapshot_id)).table(
        f"{ds.settings.catalog.name}.{ds.name}.{table}.files"
    )
    return {row["file_path"] for row in files.select("file_path").collect()}


def with_y(df: DataFrame, condition: str, value: str) -> DataFrame:
    return df.withColumn("y", F.when(F.expr(condition), F.expr(value)).otherwise(F.col("y")).cast("int"))


def left_behind(ds: Dataset) -> list[str]:
    """Branches and staged snapshots that belong to no version."""
    found = []
    for name, table in ds.metadata().tables.items():
        found += [f"{name}:{tag}" for tag in tags(table) if tag.startswith("run-")]
        kept = set(tags(table).values())
        found += [f"{name}:{s.snapshot_id}" for s in table.metadata.snapshots if s.snapshot_id not in kept]
    return found


@pytest.mark.parametrize("strategy", list(Strategy))
def test_each_strategy_gives_the_plain_result(spark: SparkSession, ds: Dataset, strategy: Strategy) -> None:
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
    actual = {c.quantity: (c.planned, c.actual) for c in summary.planned_and_actual}
    assert actual["rows"][0] == actual["rows"][1]
    assert actual["segments"][0] == actual["segments"][1]
    assert actual["bytes_read"][1] > 0
    if strategy is Strategy.MERGE_ON_READ:
        assert actual["rows"][1] == 2 * 2 * 3
        assert actual["deletion_vectors"][0] == actual["deletion_vectors"][1]
        assert before["impressions"] < data_files(ds, "impressions", 2)
    else:
        assert actual["deletion_vectors"] == (0, 0)
    assert left_behind(ds) == []
    # The same run again changes nothing, and one command takes it back.
    again = ds.backfill(Change(expressions={"y": "y + 10"}), Affected(users=[1, 5]), run_id="b")
    assert (again.already_published, again.version) == (True, 2)
    ds.rollback(1)
    same_rows(ds.logs(), log(spark, [1, 2]).frame)


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


def test_flat_layout_and_request_columns(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = make(spark, settings, name, layout="flat")
    change = Change(expressions={"country": "concat(country, size(hist))", "y": "y + user_id"})
    ds.backfill(change, Affected(where="user_id % 3 = 1"), run_id="b", gate=False)
    hit = F.col("user_id") % 3 == 1
    expected = log(spark, [1, 2]).frame
    expected = expected.withColumn("country", F.expr("if(user_id % 3 = 1, concat(country, size(hist)), country)"))
    expected = expected.withColumn("y", F.when(hit, F.col("y") + F.col("user_id")).otherwise(F.col("y")).cast("int"))
    same_rows(ds.logs(), expected)


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


@pytest.mark.parametrize("strategy", [None, Strategy.MERGE_ON_READ])
def test_replacement_rows(spark: SparkSession, ds: Dataset, strategy: Strategy | None) -> None:
    rows = spark.createDataFrame([(1, 1, 0, 7), (1, 1, 2, 8), (4, 4, 1, None), (99, 1, 0, 5)], "user_id int, "
                                 "request_id int, position int, y int")  # fmt: skip
    summary = ds.backfill(Change(rows=rows, columns=("y",)), strategy=strategy, gate=False)
    assert {c.quantity: c.planned for c in summary.planned_and_actual}["segments"] <= 2
    found = {(r.user_id, r.request_id, r.position): r.y for r in ds.impressions().collect()}
    plain = {(r.user_id, r.request_id, r.position): r.y for r in ds.impressions(1).collect()}
    assert found == {**plain, (1, 1, 0): 7, (1, 1, 2): 8, (4, 4, 1): None}


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
    ds.sample("half", fraction=0.5, seed=1)
    ds.sample("late", fraction=0.5, seed=1, start="2024-01-02")
    chosen = {row["user_id"] for row in ds.sample_users("half").collect()}
    assert 0 < len(chosen) < USERS
    inside = f"user_id in ({', '.join(map(str, chosen))})"
    ds.backfill(Change(expressions={"y": "y + 1"}), Affected(sample="half"), gate=False)
    plain = with_y(log(spark, [1, 2]).frame, inside, "y + 1")
    same_rows(ds.logs(), plain)
    ds.backfill(Change(expressions={"y": "9"}), Affected(sample="late"), gate=False)
    same_rows(ds.logs(), with_y(plain, f"{inside} and date(ts) = '2024-01-02'", "9"))
    ds.sample("capped", fraction=0.5, caps={"requests": 1})
    for who, words in (
        (Affected(sample="capped"), "the sample capped caps users"),
        (Affected(sample="half", users=[1]), "users are named twice"),
        (Affected(sample="whole"), "has no sample whole"),
    ):
        with pytest.raises(UsageError, match=words):
            ds.plan_backfill(Change(expressions={"y": "1"}), who)


def test_string_users_by_a_table(spark: SparkSession, settings: Settings, name: str) -> None:
    types = "user_id string, request_id bigint, ts timestamp, country string, hist array<bigint>, item bigint, y int"
    rows = [(f"u'{r[0]}", *r[1:]) for r in flat_rows([1, 2], users=USERS)]
    raw = RawLog.from_frame(frame(spark, rows, types), flat_schema(date_grain="month"))
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, gate=False)
    users = spark.createDataFrame([("u'3",), ("u'8",), ("u'8",)], "who string")
    for strategy in Strategy:
        ds.backfill(Change(expressions={"y": "y + 1"}), Affected(users=users), strategy=strategy, gate=False)
    same_rows(ds.logs(), with_y(raw.frame, 'user_id in ("u\'3", "u\'8")', "y + 3"))


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


class Stop(Exception):
    pass


def test_a_stopped_run_goes_on(spark: SparkSession, ds: Dataset) -> None:
    change, who = Change(expressions={"y": "y + 10"}), Affected(where="user_id < 6")

    def stop(done: int, total: int, *_: int) -> None:
        if done >= 3:
            raise Stop

    for strategy in (Strategy.MERGE_ON_READ, Strategy.OVERWRITE):
        with pytest.raises(Stop):
            ds.backfill(
                change, who, run_id=f"b-{strategy}", strategy=strategy, part_segments=1, progress=stop, gate=False
            )
        started = ds.versions()[-1].version
        # Rows appended meanwhile, also to finished segments, keep the values they came with.
        appended = log(spark, [2, 4], 500 + 100 * started)
        before = ds.logs()
        ds.write(appended, gate=False)
        with pytest.raises(UsageError, match="begun with another change"):
            ds.backfill(Change(expressions={"y": "y + 11"}), who, run_id=f"b-{strategy}", gate=False)
        summary = ds.backfill(change, who, run_id=f"b-{strategy}", strategy=strategy, part_segments=1, gate=False)
        assert (summary.resumed_segments, summary.base) == (3, started)
        expected = with_y(before, "user_id < 6", "y + 10").unionByName(appended.frame)
        same_rows(ds.logs(), expected)
        assert left_behind(ds) == []


@pytest.mark.slow
def test_a_stopped_run_starts_anew_when_its_segments_changed(spark: SparkSession, ds: Dataset) -> None:
    change, who = Change(expressions={"y": "y + 10"}), Affected(users=[1, 2, 3])

    def stop(*_: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        ds.backfill(change, who, run_id="b", part_segments=1, progress=stop, gate=False)
    ds.backfill(Change(expressions={"y": "y + 100"}), Affected(users=[1, 2]), gate=False)
    summary = ds.backfill(change, who, run_id="b", gate=False)
    assert (summary.resumed_segments, summary.base) == (0, 2)
    expected = with_y(log(spark, [1, 2]).frame, "user_id in (1, 2)", "y + 100")
    same_rows(ds.logs(), with_y(expected, "user_id in (1, 2, 3)", "y + 10"))


def overtake(ds: Dataset, inner: Any, **given: Any) -> Backfill:
    """A backfill that another run overtakes after it has rewritten its segments."""
    given = {"run_id": "slow", **given}
    slow = Backfill(ds.spark, ds.tables, ds.settings, ds.spec, gate=False, **given)
    original = slow._audit_rows

    def audit(*args: Any) -> None:
        original(*args)
        inner()

    slow._audit_rows = audit  # type: ignore[method-assign]
    return slow


@pytest.mark.parametrize("strategy", [Strategy.MERGE_ON_READ, pytest.param(Strategy.OVERWRITE, marks=SLOW)])
def test_the_same_segments_conflict_by_name(spark: SparkSession, ds: Dataset, strategy: Strategy) -> None:
    def fast() -> None:
        ds.backfill(Change(expressions={"y": "7"}), Affected(users=[1]), run_id="fast", gate=False)

    change = Change(expressions={"y": "y + 1"})
    slow = overtake(ds, fast, change=change, affected=Affected(users=[1]), strategy=strategy)
    with pytest.raises(ConflictError, match=r"version 2 .* changed segments that this run replaces"):
        slow.run()
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "user_id = 1", "7"))
    assert left_behind(ds) == []
    ds.backfill(change, Affected(users=[1]), run_id="slow", gate=False)
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "user_id = 1", "8"))


@pytest.mark.parametrize("strategy", [Strategy.MERGE_ON_READ, pytest.param(Strategy.COPY_ON_WRITE, marks=SLOW)])
def test_other_segments_and_appends_do_not_conflict(spark: SparkSession, ds: Dataset, strategy: Strategy) -> None:
    appended = log(spark, [2, 3], 500)

    def others() -> None:
        ds.backfill(Change(expressions={"y": "7"}), Affected(last_date="2024-01-01"), run_id="fast", gate=False)
        ds.backfill(Change(expressions={"country": "'NO'"}), Affected(users=[2]), run_id="table", gate=False)
        ds.write(appended, gate=False)

    slow = overtake(
        ds,
        others,
        change=Change(expressions={"y": "y + 1"}),
        affected=Affected(users=[1, 2], first_date="2024-01-02"),
        strategy=strategy,
    )
    assert slow.run().version == 5
    expected = with_y(log(spark, [1, 2]).frame, "date(ts) = '2024-01-01'", "7")
    expected = with_y(expected, "date(ts) = '2024-01-02' and user_id in (1, 2)", "y + 1")
    expected = expected.withColumn("country", F.expr("if(user_id = 2, 'NO', country)"))
    same_rows(ds.logs(), expected.unionByName(appended.frame))
    assert left_behind(ds) == []


@pytest.mark.parametrize("date_grain", ["none", pytest.param("day", marks=SLOW)])
def test_feature_runs_on_the_same_dates_do_not_conflict(
    spark: SparkSession, settings: Settings, name: str, date_grain: str
) -> None:
    ds = make(spark, settings, name, date_grain=date_grain)
    ds.add_features("size", {"n": "size(hist)"}, gate=False)
    plain = log(spark, [1, 2]).frame.withColumn("n", F.size("hist"))

    def features() -> None:
        ds.add_features("other", {"one": "1"}, gate=False)
        ds.refresh_features("size", full=True, gate=False)
        ds.rename_features("other", "another")

    slow = overtake(ds, features, change=Change(expressions={"y": "y + 1"}), affected=Affected(users=[1]))
    assert slow.run().version == 6
    plain = with_y(plain, "user_id = 1", "y + 1").withColumn("one", F.lit(1))
    same_rows(ds.logs(), plain.select(*ds.logs().columns))

    def refresh() -> None:
        ds.refresh_features("size", full=True, gate=False)

    # The group's own column is another matter.
    change = Change(expressions={"n": "n + 1"})
    slow = overtake(ds, refresh, change=change, affected=Affected(users=[1]), run_id="slower")
    with pytest.raises(ConflictError):
        slow.run()
    same_rows(ds.logs(), plain.select(*ds.logs().columns))


@pytest.mark.slow
def test_a_replaced_day_conflicts_both_ways(spark: SparkSession, ds: Dataset) -> None:
    def replace() -> None:
        ds.write(log(spark, [1], 700), mode="replace", gate=False)

    slow = overtake(ds, replace, change=Change(expressions={"y": "7"}), affected=Affected(users=[1]))
    with pytest.raises(ConflictError):
        slow.run()
    assert left_behind(ds) == []


@pytest.mark.slow
def test_a_column_read_from_a_changed_table_conflicts(spark: SparkSession, ds: Dataset) -> None:
    def other() -> None:
        ds.backfill(Change(expressions={"country": "'NO'"}), Affected(users=[1]), gate=False)

    slow = overtake(ds, other, change=Change(expressions={"y": "length(country)"}), affected=Affected(users=[1]))
    with pytest.raises(ConflictError):
        slow.run()


def test_parallel_backfills_of_disjoint_segments_all_succeed(spark: SparkSession, ds: Dataset) -> None:
    days = ["2024-01-01", "2024-01-02"]

    def run(day: str) -> int:
        who = Affected(first_date=day, last_date=day)
        return ds.backfill(Change(expressions={"y": f"{day[-1]}"}), who, run_id=day, gate=False).version

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(run, days)) == [2, 3]
    same_rows(ds.logs(), with_y(log(spark, [1, 2]).frame, "true", "day(ts)"))


def test_the_gate_refuses_and_nothing_remains(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = make(spark, settings, name, checks={"y": {"allowed": [0, 1]}})
    with pytest.raises(QualityGateError, match="y"):
        ds.backfill(Change(expressions={"y": "y + 5"}), Affected(users=[1]))
    assert [v.version for v in ds.versions()] == [1]
    assert left_behind(ds) == []
    same_rows(ds.logs(), log(spark, [1, 2]).frame)


def test_bad_input_is_refused_before_anything_is_written(spark: SparkSession, ds: Dataset) -> None:
    y = Change(expressions={"y": "y + 1"})
    twice = spark.createDataFrame([(1, 1, 0, 7), (1, 1, 0, 8)], "user_id long, request_id long, position int, y int")
    two = spark.createDataFrame([(1, 2)], "a long, b long")

    def more(df: DataFrame) -> DataFrame:
        return df.unionByName(df)

    for error, change, who in (
        (UnknownColumnError, Change(expressions={"yy": "1"}), Affected()),
        (UnknownColumnError, Change(expressions={"y": "nothing + 1"}), Affected()),
        (UsageError, Change(expressions={"user_id": "1"}), Affected()),
        (UsageError, Change(expressions={"y": "1", "country": "'x'"}), Affected()),
        (InputError, Change(expressions={"y": "1 +"}), Affected()),
        (InputError, Change(expressions={"y": "y / (user_id - 1)"}), Affected(users=[1])),
        (UnknownColumnError, y, Affected(users=two)),
        (UnknownColumnError, y, Affected(where="nothing = 1")),
        (VersionNotFoundError, y, Affected(changed_since=9)),
        (DuplicateRowsError, Change(rows=twice, columns=("y",)), Affected()),
        (SchemaError, Change(rows=two, columns=("y",)), Affected()),
        (InputError, Change(function=more, columns=("y",)), Affected(users=[1])),
        (UnknownColumnError, Change(function=lambda df: df.drop("y"), columns=("y",)), Affected(users=[1])),
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


def test_a_feature_group_is_backfilled_and_stays_one(spark: SparkSession, ds: Dataset) -> None:
    """One column of a group for some users: no other table is written, and the definition stays."""
    ds.add_features("size", {"n": "cast(size(hist) as double)"}, not_null=True, run_id="add", gate=False)
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
