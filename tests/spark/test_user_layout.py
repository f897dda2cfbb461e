"""Layout ``user`` on both formats: whatever was logged comes back bit for bit, in every version."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.joins.tables import table_frame
from dedup_storage.dataset.lists import with_lists
from dedup_storage.dataset.upkeep import Policy
from dedup_storage.dataset.versions.lists import list_checks
from dedup_storage.dataset.write import user_lists, user_proof
from dedup_storage.dataset.write.audit import staged_rows
from dedup_storage.dedup.hashing import hash_column
from dedup_storage.errors import (
    ConflictError,
    DatasetExistsError,
    QualityGateError,
    SchemaError,
    StorageError,
    UsageError,
)
from dedup_storage.layout import EpochGrain
from dedup_storage.report.draw.dataset import draw_dataset
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.report.parquet.tables import read_totals
from dedup_storage.sources.raw import RawLog
from tests.restored import restored
from tests.spark.helpers import DELTA_DAILY, ICEBERG_DAILY, day, frame
from tests.spark.odd_lists import TYPES, bits, odd_rows, odd_schema

FORMATS = ["iceberg", "delta"]
Watch = Callable[[str, Callable[[], object]], None]


@pytest.fixture(params=FORMATS)
def lake(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.model_copy(update={"format": request.param})


def log(spark: SparkSession, days: list[int], **options: Any) -> RawLog:
    schema = options.pop("schema", {})
    return RawLog.from_frame(frame(spark, odd_rows(days, **options), TYPES), odd_schema(**schema))


def created(spark: SparkSession, lake: Settings, name: str, first: RawLog) -> Dataset:
    epochs = "month" if first.schema.event_time else None
    return Dataset.create(spark, lake, name, first.schema, first, layout="user", epoch_grain=epochs)


def one_day(spark: SparkSession, lake: Settings) -> tuple[Dataset, RawLog]:
    """A dataset with the first day, and its log; one at a time."""

    def build(name: str) -> Dataset:
        made = created(spark, lake, name, log(spark, [1]))
        made.write(log(spark, [1]), gate=False)
        return made

    return restored(spark, lake, "a day of users", build), log(spark, [1])


def same(found: DataFrame, expected: DataFrame) -> None:
    assert found.columns == expected.columns
    assert found.dtypes == expected.dtypes
    left, right = bits(found), bits(expected)
    assert not left - right, next(iter(left - right))
    assert left == right


@pytest.mark.long
@pytest.mark.parametrize("lake", ICEBERG_DAILY, indirect=True)
def test_every_version_gives_back_what_was_logged(spark: SparkSession, lake: Settings, name: str) -> None:
    """Days that come late, a day replaced, a rollback, the same run twice: each version is what it was."""
    one, two, three = (log(spark, [n], seed=1) for n in (1, 2, 3))
    other = log(spark, [2], seed=2, first=5000)
    ds = created(spark, lake, name, log(spark, [1, 2, 3], seed=1))
    assert [(g.name, g.columns, g.newest_first) for g in ds.spec.events] == [
        ("g", ("seen", "paid"), False), ("words", ("words",), True)
    ]  # fmt: skip
    ds.write(one, run_id="one", gate=False)
    ds.write(three, run_id="three", gate=False)
    ds.write(two, run_id="two", gate=False)
    assert ds.write(two, run_id="two").already_published
    ds.write(other, run_id="other", mode="replace", gate=False)
    ds.rollback(2)
    ds.write(other, run_id="again", gate=False)

    first, second, third, fourth = (raw.frame for raw in (one, two, three, other))
    expected = {
        1: [first], 2: [first, third], 3: [first, third, second], 4: [first, third, fourth], 5: [first, third],
        6: [first, third, fourth],
    }  # fmt: skip
    assert [v.version for v in ds.versions()] == list(expected)
    for version, parts in expected.items():
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.unionByName(part)
        same(ds.logs(version), whole)
    lists = ["u", "r", "seen", "paid", "age", "words"]
    logged = first.unionByName(third).unionByName(fourth).select(lists).dropDuplicates(["u", "r"])
    same(ds.requests().select(lists), logged)
    assert all(check.passed for check in ds.check().checks if ".lists." in check.name)


@pytest.mark.long
@pytest.mark.parametrize("lake", ICEBERG_DAILY, indirect=True)
def test_other_segments(spark: SparkSession, lake: Settings, name: str) -> None:
    """Replaced days share a segment with others, which are carried over with their runs: months, no dates."""
    schema = {"date_grain": {"iceberg": "month", "delta": "none"}[lake.format]}
    both, other = log(spark, [1, 2], schema=schema), log(spark, [2], seed=3, first=900, schema=schema)
    ds = created(spark, lake, name, both)
    ds.write(both, gate=False)
    ds.write(other, mode="replace", gate=False)
    same(ds.logs(), both.frame.filter("ts < '2024-01-02'").unionByName(other.frame))
    same(ds.logs(1), both.frame)


@pytest.mark.long
@pytest.mark.parametrize("lake", ICEBERG_DAILY, indirect=True)
def test_without_event_times(spark: SparkSession, lake: Settings, name: str) -> None:
    schema = {"event_time": None, "date_grain": "none", "columns": {"ts": "request"}}
    one, two = log(spark, [1], schema=schema), log(spark, [2], schema=schema, first=500)
    ds = created(spark, lake, name, one)
    ds.write(one, gate=False)
    ds.write(two, gate=False)
    same(ds.logs(), one.frame.unionByName(two.frame))


def seen_log(spark: SparkSession, lists: list[list[int]], first: int = 0) -> RawLog:
    """Requests of five users in turn, each with a list of its own; at most nine elements are allowed."""
    rows = [(f"u{n % 5}", first + n, day(1 + n // 20, n % 20), seen, n, 0) for n, seen in enumerate(lists)]
    types = "u string, r bigint, ts timestamp, seen array<bigint>, item bigint, y int"
    return RawLog.from_frame(frame(spark, rows, types), odd_schema(sequences=[{"column": "seen", "max_length": 9}]))


def test_lists_that_are_no_windows_stay_in_the_requests(spark: SparkSession, settings: Settings, name: str) -> None:
    """Nothing is stored as events, and what needs lists as they lie is there, as in split layout."""
    drawn = random.Random(0)
    one = seen_log(spark, [[drawn.getrandbits(40) for _ in range(9)] for _ in range(40)])
    ds = created(spark, settings, name, one)
    written = ds.write(one, gate=False)
    assert [table.name for table in ds.spec.tables] == ["requests", "impressions"]
    assert "as layout split does" in written.hints[0]
    same(ds.logs(), one.frame)
    ds.spec.require_stored_lists("a backfill")


def test_the_gate_judges_lists_that_are_not_stored(spark: SparkSession, settings: Settings, name: str) -> None:
    lists = [list(range(n // 5, n // 5 + 8)) for n in range(40)]
    one = seen_log(spark, lists)
    ds = created(spark, settings, name, one)
    assert ds.write(one).gate == "passed"
    assert ds.requests().selectExpr("sum(size(seen))").first() == (320,)
    with pytest.raises(QualityGateError, match=r"seen\.max_length"):
        ds.write(seen_log(spark, [[*seen, 1, 2] for seen in lists], first=100))
    assert len(ds.versions()) == 1


@pytest.mark.long
@pytest.mark.parametrize("lake", DELTA_DAILY, indirect=True)
def test_lists_that_grew_meanwhile(spark: SparkSession, lake: Settings, at: Watch) -> None:
    """Of two writers on the same users the later one is laid again, on the lists as they are then."""
    two, three = (log(spark, [n]) for n in (2, 3))
    mode = {"iceberg": "append", "delta": "replace"}[lake.format]
    ds, one = one_day(spark, lake)
    other = Dataset.open(spark, lake, ds.name)
    at("write:audited", lambda: other.write(two, run_id="faster", gate=False))
    assert ds.write(three, run_id="slower", mode=mode, gate=False).version == 3
    assert [v.run_id for v in ds.versions()][1:] == ["faster", "slower"]
    same(ds.logs(2), one.frame.unionByName(two.frame))
    same(ds.logs(), one.frame.unionByName(two.frame).unionByName(three.frame))
    assert all(check.passed for check in ds.check().checks if ".lists." in check.name)


@pytest.mark.long
@pytest.mark.parametrize("lake", ICEBERG_DAILY, indirect=True)
def test_a_writer_that_is_overtaken_each_time(spark: SparkSession, lake: Settings, at: Watch) -> None:
    hasty = lake.model_copy(update={"write": lake.write.model_copy(update={"conflict_retries": 0})})
    other, one = one_day(spark, lake)
    two, ds = log(spark, [2]), Dataset.open(spark, hasty, other.name)
    at("write:audited", lambda: other.write(two, gate=False))
    with pytest.raises(ConflictError, match=r"users' lists of .* first"):
        ds.write(log(spark, [3]), gate=False)
    same(ds.logs(), one.frame.unionByName(two.frame))


@pytest.fixture(scope="session")
def standing() -> dict[str, tuple[Dataset, DataFrame]]:
    return {}


@pytest.fixture
def ds(
    spark: SparkSession, lake: Settings, standing: dict[str, tuple[Dataset, DataFrame]]
) -> tuple[Dataset, DataFrame]:
    """A dataset of two days and its log, built once for each format; tests publish nothing."""
    if lake.format not in standing:
        one, two = log(spark, [1]), log(spark, [2])
        made = created(spark, lake, f"t_user_{lake.format}", one)
        made.write(one, gate=False)
        made.write(two, gate=False)
        standing[lake.format] = made, one.frame.unionByName(two.frame)
    return standing[lake.format]


@pytest.mark.long
def test_events_are_read_only_where_a_list_is_asked_for(ds: tuple[Dataset, DataFrame]) -> None:
    def scans(df: DataFrame) -> int:
        text = str(df._jdf.queryExecution().executedPlan().toString())
        return text.count("BatchScan") + text.count("FileScan")

    made, _ = ds
    assert scans(made.requests().select("u", "age")) == 1
    assert scans(made.logs().select("u", "y")) == 2
    assert scans(made.requests().select("words")) == 2
    assert scans(made.requests().select("seen", "words")) == 3


@pytest.mark.long
def test_events_that_another_tool_changed_are_refused(ds: tuple[Dataset, DataFrame]) -> None:
    """A list is cut out of its user's list by index: without an event it would be another list, or none."""
    made, logged = ds
    cut = made.handle.cut()
    events = {group.name: cut.stored(group.table) for group in made.spec.events}
    whole = events["g"]
    less = [whole.filter(left) for left in ("position <> 3", "position < 3", "u <> 'user 2'")]
    for changed in (*less, whole.union(whole.filter("position = 3"))):
        rows = with_lists(made.spec, cut.stored("requests"), {**events, "g": changed})
        with pytest.raises(PySparkException, match="events_g does not hold every event of a user once"):
            rows.select("seen").collect()
    same(rows.select("u", "r", "words"), logged.select("u", "r", "words").dropDuplicates(["u", "r"]))


@pytest.mark.long
def test_checks_find_what_no_list_shows(ds: tuple[Dataset, DataFrame]) -> None:
    made, _ = ds
    cut = made.handle.cut()
    stored = {table: cut.stored(table) for table in ("requests", "events_g", "events_words")}
    placeless = stored["events_g"].filter("position = 3").withColumn("position", F.lit(None).cast("bigint"))
    beside = stored["requests"].withColumn("paid", F.coalesce("paid", F.array().cast("array<double>")))
    cases: list[dict[str, DataFrame]] = [
        {}, {"events_g": stored["events_g"].union(placeless)}, {"requests": beside},
    ]  # fmt: skip
    found = []
    for changed in cases:
        there: Any = SimpleNamespace(spec=made.spec, stored={**stored, **changed}.__getitem__)
        found.append([check.passed for check in list_checks(there)])
    assert found == [[True, True], [False, True], [False, True]]


def test_staged_rows_that_are_not_what_was_laid_are_refused(
    spark: SparkSession, ds: tuple[Dataset, DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is little is read in one task, whatever segments it lies in: events of two groups, staged rows."""
    made, logged = ds
    coalesce, tasks = type(logged).coalesce, []
    monkeypatch.setattr(type(logged), "coalesce", lambda rows, n: tasks.append(n) or coalesce(rows, n))
    monkeypatch.setattr(user_proof, "staged_rows", lambda *of: staged_rows(*of).filter("u <> 'user 2'"))
    with pytest.raises(StorageError, match=r"staged in t_user_\w+.requests are not those"):
        made.write(log(spark, [3]), gate=False)
    assert len(made.versions()) == 2
    assert tasks == [1, 1, 1]
    assert [user_lists.tasks_for(stored) for stored in (0, 1, 4 * 2**20, 4 * 2**20 + 1)] == [1, 1, 1, 2]


def test_any_engine_can_read_it(ds: tuple[Dataset, DataFrame]) -> None:
    """The view of the documentation gives the lists back."""
    made, logged = ds
    cut = made.handle.cut()
    cut.stored("requests").createOrReplaceTempView("requests_of_user")
    cut.stored("events_g").createOrReplaceTempView("events_of_user")
    found = made.spark.sql(
        """
        SELECT u, r, CASE WHEN g_runs IS NULL THEN seen ELSE flatten(transform(g_runs,
            w -> slice(list, CAST(array_position(list.position, w.start) AS INT), w.length))).seen END AS seen
        FROM requests_of_user LEFT JOIN (
            SELECT u, array_sort(collect_list(struct(position, seen, paid))) AS list
            FROM events_of_user GROUP BY u) USING (u)
        """
    )
    same(found, logged.select("u", "r", "seen").dropDuplicates(["u", "r"]))


def test_the_report_has_the_lists_that_were_logged(ds: tuple[Dataset, DataFrame]) -> None:
    """Drawn from the files without Spark, they are those that Spark reads; each byte of the events counts once."""
    made, _ = ds
    files = dataset_files(made.settings, made.name)
    drawn = draw_dataset(files, {t.name: read_totals(t) for t in files.tables}).requests
    names = ["u", "r", "seen", "paid", "age", "words"]
    logged = made.requests().select(names).sort("u", "r").toArrow()
    for name in names:
        assert (hash_column(drawn[name], bits=True) == hash_column(logged[name], bits=True)).all(), name
    report = made.compression_report(with_curves=False)
    tables = {t.name.rsplit("/", 1)[-1]: t for t in report.tables}
    for group in report.user_lists:
        assert group.event_bytes + group.key_bytes == tables[f"events_{group.group}"].column_bytes
        assert group.events == tables[f"events_{group.group}"].rows
        assert group.ratio is not None
    assert {d.value for d in report.dates} == {"2024-01-01", "2024-01-02"}
    assert sum(p.stored_bytes for p in report.buckets) == report.stored_bytes


def test_what_is_not_there_yet_is_refused(spark: SparkSession, ds: tuple[Dataset, DataFrame]) -> None:
    made, _ = ds
    refused: list[Callable[[], Any]] = [
        lambda: made.backfill(Change(expressions={"words": "slice(words, 1, 1)"})),
        lambda: made.join(),
    ]
    for action in refused:
        with pytest.raises(UsageError, match="layout user"):
            action()
    assert len(made.versions()) == 2
    flat = frame(spark, odd_rows([1]), TYPES).drop("seen", "paid", "age", "words")
    raw = RawLog.from_frame(flat, odd_schema(sequences=[]))
    with pytest.raises(SchemaError, match="needs history lists"):
        Dataset.create(spark, made.settings, "t_no_lists", raw.schema, raw, layout="user")


@pytest.mark.long
@pytest.mark.parametrize("lake", DELTA_DAILY, indirect=True)
def test_epochs_are_proposed_chosen_and_kept(spark: SparkSession, lake: Settings, name: str, tmp_path: Path) -> None:
    """A small log proposes none; a conversion keeps what there is, or changes it; events lie where it says."""
    log(spark, [1, 2]).frame.write.parquet(str(tmp_path / "log"))
    raw = RawLog.read(spark, str(tmp_path / "log"), schema=odd_schema())
    made = Dataset.create(spark, lake, name, raw.schema, raw, layout="user")
    made.write(raw, gate=False)
    made.convert(f"{name}_month", epoch_grain="month", format=lake.format)
    made.convert(f"{name}_kept", buckets=2, format=lake.format)
    told = {"": EpochGrain.NONE, "_month": EpochGrain.MONTH, "_kept": EpochGrain.NONE}
    for suffix, grain in told.items():
        ds = Dataset.open(spark, lake, name + suffix)
        assert ds.spec.epoch_grain is grain
        same(ds.logs(), raw.frame)
        epochs = {row["epoch"] for row in ds.handle.cut().stored("events_g").select("epoch").distinct().collect()}
        assert epochs == ({dt.date(2024, 1, 1)} if grain is EpochGrain.MONTH else {None})
        files = next(t for t in dataset_files(lake, ds.name).tables if t.name == "events_g").files
        assert {any(date in file.partition for date in ("date", "epoch")) for file in files} == {
            grain is EpochGrain.MONTH
        }
    with pytest.raises(DatasetExistsError, match=f"the dataset {name} exists with another epoch_grain"):
        Dataset.create(spark, lake, name, raw.schema, raw, layout="user", epoch_grain="month")
    with pytest.raises(UsageError, match="only layout user stores events"):
        Dataset.create(spark, lake, f"{name}_other", raw.schema, raw, epoch_grain="none")
    with pytest.raises(UsageError, match="only layout user stores events"):
        made.convert(f"{name}_other", layout="split", epoch_grain="month", format=lake.format)


@pytest.mark.long
@pytest.mark.parametrize("lake", ICEBERG_DAILY, indirect=True)
def test_features_labels_samples_joins_and_conversion(spark: SparkSession, lake: Settings) -> None:
    """Verbs that read requests get their lists; those that read other columns read no list."""
    made, one = one_day(spark, lake)
    made.features.add("counts", {"many": "size(words)", "first": "element_at(seen, 1)"}, gate=False)
    requests = one.frame.dropDuplicates(["u", "r"])
    expected = requests.selectExpr("u", "r", "size(words) AS many", "element_at(seen, 1) AS first")
    same(made.requests().select("u", "r", "many", "first"), expected)
    made.backfill(Change(expressions={"y": "y + 10"}), gate=False)
    late = one.frame.select("u", "r", "item", F.lit(7).alias("y"), "ts").orderBy("item").limit(1)
    made.merge_labels(late, "y", "ts", gate=False)
    labels = sorted(row["y"] for row in made.logs().select("y").collect())
    assert len(labels) == one.frame.count()
    assert labels[0] == 7
    assert labels[1] >= 10
    made.samples.make("half", {"fraction": 0.5, "seed": 1})
    sampled = made.requests(sample="half").select("u", "r", "words")
    assert bits(sampled) <= bits(requests.select("u", "r", "words"))
    # On Delta every join moves rows, and is refused unless that is allowed.
    exchange = "refuse" if lake.format == "iceberg" else "warn"
    assert made.join(columns=["age", "y"], exchange=exchange).count() == one.frame.count()
    made.convert(f"{made.name}_split", layout="split")
    converted = Dataset.open(spark, lake, f"{made.name}_split")
    same(converted.logs(features=()), made.logs(features=()))


@pytest.mark.long
@pytest.mark.parametrize("lake", ICEBERG_DAILY, indirect=True)
def test_erasure_and_upkeep(spark: SparkSession, lake: Settings) -> None:
    """A user's events and their features go with the requests, from every kept version and every file; merged files
    change no list."""
    days = [log(spark, [n]) for n in (1, 2, 3)]
    made, _ = one_day(spark, lake)
    for raw in days[1:]:
        made.write(raw, gate=False)
    made.features.add("prices", {"twice": "seen * 2"}, grain="event", sequence="g", missing="null", gate=False)
    whole = days[0].frame.unionByName(days[1].frame).unionByName(days[2].frame)
    summary = made.maintain(policy=Policy(keep_versions=1, keep_days=0))
    merged = {gain.table: gain for gain in summary.compaction}
    assert {"events_g", "events_words"} <= merged.keys()
    assert merged["events_g"].files_after < merged["events_g"].files_before
    same(made.logs(features=()), whole)
    receipt = made.forget_users(["user 2"])
    assert {t.table for t in receipt.tables} >= {"requests", "impressions", "events_g", "events_words"}
    assert all(t.rows_left == 0 and t.bounds_left == 0 for t in receipt.tables)
    rows = {t.table: t.rows for t in receipt.tables}
    assert rows["fe0_prices"] == rows["events_g"] > 0
    same(made.logs(features=()), whole.filter("u <> 'user 2'"))
    # The others go on, and the user may come back.
    again = log(spark, [1], first=9000)
    made.write(again, gate=False)
    same(made.logs(features=()), whole.filter("u <> 'user 2'").unionByName(again.frame))


@pytest.mark.long
@pytest.mark.parametrize("lake", ICEBERG_DAILY, indirect=True)
def test_a_write_during_an_erasure(spark: SparkSession, lake: Settings, at: Watch) -> None:
    """Requests that come while their user is erased stand in events that go: the erasure looks anew."""
    made, one = one_day(spark, lake)
    two, other = log(spark, [2]), Dataset.open(spark, lake, made.name)
    at("forget:written", lambda: other.write(two, run_id="between", gate=False))
    receipt = made.forget_users(["user 2"], "gone")
    assert receipt.clean
    assert "between" in {v.run_id for v in made.versions()}
    same(made.logs(), one.frame.unionByName(two.frame).filter("u <> 'user 2'"))
    assert all(check.passed for check in made.check().checks if ".lists." in check.name)


@pytest.mark.long
def test_the_columns_of_runs_have_their_names_alone(spark: SparkSession, ds: tuple[Dataset, DataFrame]) -> None:
    made, _ = ds
    with pytest.raises(SchemaError, match=r"the column g_runs .* a column of the toolkit"):
        made.features.add("runs", {"g_runs": "size(words)"}, gate=False)
    more = frame(spark, odd_rows([3]), TYPES).withColumn("g_runs", F.lit(1))
    raw = RawLog.from_frame(more, odd_schema(columns={"g_runs": "request"}))
    with pytest.raises(SchemaError, match="its name is taken"):
        made.write(raw, add_columns=["g_runs"], gate=False)
    assert len(made.versions()) == 2
    events = table_frame(made.handle, "events_g")
    assert dict(events.dtypes)["seen"] == "int"
