"""Features of events on both formats: lists parallel to the histories, each event computed and written once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.features import Lookup
from dedup_storage.dataset.upkeep import Policy
from dedup_storage.errors import ConflictError, DedupStorageError, InputError, QualityGateError, SchemaError, UsageError
from dedup_storage.reader import DedupDataset
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import ICEBERG_DAILY, frame, halves
from tests.spark.odd_lists import TYPES, odd_rows, odd_schema

FORMATS = ["iceberg", "delta"]
Watch = Callable[[str, Callable[[], object]], None]
EXPRESSIONS = {"twice": "seen * 2", "cheap": "coalesce(paid < 1, false)"}


@pytest.fixture(params=FORMATS)
def lake(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.model_copy(update={"format": request.param})


UNDATED = {"event_time": None, "date_grain": "none", "columns": {"ts": "request"}}


def log(spark: SparkSession, days: list[int], schema: dict[str, Any] | None = None, **options: Any) -> RawLog:
    return RawLog.from_frame(frame(spark, odd_rows(days, **options), TYPES), odd_schema(**(schema or {})))


def created(spark: SparkSession, lake: Settings, name: str, schema: dict[str, Any] | None = None) -> Dataset:
    """A dataset with the first of three days."""
    first = log(spark, [1, 2, 3], schema)
    ds = Dataset.create(spark, lake, name, first.schema, first, layout="user", epoch_grain="none")
    ds.write(log(spark, [1], schema), gate=False)
    return ds


def plain(ds: Dataset, version: int | None = None) -> dict[Any, list[Any]]:
    """What the features of each request are to be, list by list."""
    stored = ds.handle.cut(version).stored("requests").select("u", "r", "g_runs", "words_runs")
    windows = {(r["u"], r["r"]): (r["g_runs"] is not None, r["words_runs"] is not None) for r in stored.collect()}
    found = {}
    for row in ds.requests(version, features=()).collect():
        g, words = windows[row["u"], row["r"]]
        twice = cheap = letters = None
        if row["seen"] is not None:
            # Elements of a list that is no window are no events.
            twice = [2 * v if g and v is not None else None for v in row["seen"]]
            cheap = [v is not None and v < 1 for v in row["paid"]] if g else [None] * len(row["seen"])
        if row["words"] is not None:
            letters = [len(v) if words else None for v in row["words"]]
        found[row["u"], row["r"]] = [twice, cheap, letters]
    return found


def shown(rows: DataFrame, columns: list[str]) -> dict[Any, list[Any]]:
    return {(r["u"], r["r"]): [r[c] for c in columns] for r in rows.select("u", "r", *columns).collect()}


def delivered(ds: Dataset, columns: list[str], **options: Any) -> dict[Any, list[Any]]:
    """What the reader gives of each request."""
    found = {}
    for batch in DedupDataset(ds.name, ds.settings, columns=columns, batch_size=20, **options):
        lists = [batch[c].decode() for c in columns]
        keys = zip(batch["u"].decode(), batch["r"].decode(), strict=True)
        found |= {key: [own[row] for own in lists] for row, key in enumerate(keys)}
    return found


@pytest.mark.long
@pytest.mark.parametrize(("lake", "whole"), halves("iceberg"), indirect=["lake"])
def test_every_history_has_a_list_beside_it(spark: SparkSession, lake: Settings, name: str, whole: bool) -> None:
    """Days that come late, a rollback, another name, merged files, an erasure: what is computed is right, the rest
    null."""
    ds, columns = created(spark, lake, name), ["twice", "cheap", "n"]
    with pytest.raises(UsageError, match=r"keep lists? of g in the table requests"):
        ds.features.add("prices", EXPRESSIONS, grain="event", sequence="g")
    added = ds.features.add("prices", EXPRESSIONS, grain="event", sequence="g", missing="null")
    assert added.rows == ds.handle.cut().stored("events_g").count()
    ds.features.add("length", {"n": "length(words)"}, grain="event", sequence="words", missing="null", gate=False)
    assert shown(ds.requests(), columns) == plain(ds)
    assert delivered(ds, columns) == plain(ds)
    assert not {*columns} & {*ds.requests(1).columns}
    assert ds.features.refresh("prices").up_to_date

    for late in (3, 2):
        ds.write(log(spark, [late]), run_id=f"day-{late}", gate=False)
    wanted = plain(ds)
    found, read = shown(ds.requests(), columns), delivered(ds, columns)
    assert found == read
    assert found != wanted
    for key, lists in wanted.items():
        for right, there in zip(lists, found[key], strict=True):
            assert (right is None) == (there is None)
            assert all(a in (None, b) for a, b in zip(there or [], right or [], strict=True))
    before = ds.handle.cut(3).stored("events_g").count()
    refreshed = ds.features.refresh("prices")
    assert (refreshed.rows, refreshed.replaced) == (ds.handle.cut().stored("events_g").count() - before, False)
    ds.features.refresh("length")
    assert shown(ds.requests(), columns) == shown(ds.logs(), columns) == wanted
    assert delivered(ds, columns, across_dates=True, buffer_bytes=4096) == wanted
    checked = [c for c in ds.check().checks if c.name.startswith("features.")]
    assert {c.name.split(".")[1] for c in checked} == {"prices", "length"}
    assert all(c.passed for c in checked)
    if not whole:
        return

    ds.features.rename("prices", "costs")
    version = ds.rollback(3).version
    assert shown(ds.requests(version), columns) == plain(ds)
    ds.write(log(spark, [2], first=700, seed=5), gate=False)
    for group in ("prices", "length"):
        ds.features.refresh(group, gate=False)
    wanted = plain(ds)
    assert shown(ds.requests(), columns) == wanted
    whole = shown(ds.requests(), ["seen", "words"])
    merged = {gain.table: gain for gain in ds.maintain(policy=Policy(keep_versions=1, keep_days=0)).compaction}
    assert {"events_g", "events_words"} <= merged.keys()
    assert merged["events_g"].files_after < merged["events_g"].files_before
    assert shown(ds.requests(), ["seen", "words", *columns]) == {k: [*whole[k], *v] for k, v in wanted.items()}
    receipt = ds.forget_users(["user 2"])
    assert {t.table for t in receipt.tables} >= {"requests", "impressions", "events_g", "events_words"}
    rows = {t.table: (t.rows, t.rows_left + t.bounds_left) for t in receipt.tables}
    assert rows["fe0_prices"][0] == rows["events_g"][0] > 0
    assert all(left == 0 for _, left in rows.values())
    others = {k: [*whole[k], *v] for k, v in wanted.items() if k[0] != "user 2"}
    assert shown(ds.requests(), ["seen", "words", *columns]) == others
    ds.write(log(spark, [1], first=9000), gate=False)
    ds.features.refresh("prices", gate=False)
    assert shown(ds.requests(), columns[:2]) == {k: v[:2] for k, v in plain(ds).items()}
    ds.features.drop("prices")
    assert "twice" not in ds.logs().columns


@pytest.fixture(scope="session")
def standing() -> dict[str, Dataset]:
    return {}


@pytest.fixture
def ds(spark: SparkSession, lake: Settings, standing: dict[str, Dataset]) -> Dataset:
    """A dataset of one day, built once for each format; tests leave no version behind."""
    if lake.format not in standing:
        standing[lake.format] = created(spark, lake, f"t_events_{lake.format}")
    return standing[lake.format]


def test_what_is_no_feature_of_an_event_is_refused(spark: SparkSession, ds: Dataset) -> None:
    def add(source: Any, name: str = "f", **options: Any) -> None:
        ds.features.add(name, source, **{"grain": "event", "sequence": "g", "missing": "null", **options})

    cases: list[tuple[type[DedupStorageError], str, Callable[[], Any]]] = [
        (InputError, "more than one event", lambda: add({"n": "row_number() OVER (PARTITION BY u ORDER BY position)"})),
        (UsageError, "a function is not there", lambda: add(lambda events: events)),
        (UsageError, "a look-back is not there", lambda: add({"n": "seen"}, lookback=3)),
        (UsageError, "across_users is not there", lambda: add({"n": "seen"}, across_users=True)),
        (UsageError, "several sequence groups", lambda: add({"n": "seen"}, sequence=None)),
        (UsageError, "no sequence group h", lambda: add({"n": "seen"}, sequence="h")),
        (UsageError, "is named for a feature group", lambda: add({"n": "size(seen)"}, grain="request")),
        (SchemaError, "name of a key of events_g", lambda: add({"position": "seen"})),
        (SchemaError, "name of another column", lambda: add({"item": "seen"})),
        (UsageError, "grain of a batch|grain .* is not known", lambda: ds.features.add("f", {"n": "seen"}, grain="x")),
    ]
    for error, message, action in cases:
        with pytest.raises(error, match=message):
            action()
    assert len(ds.versions()) == 1


@pytest.mark.long
@pytest.mark.parametrize("lake", ICEBERG_DAILY, indirect=True)
def test_frames_lookups_and_a_rollback_meanwhile(spark: SparkSession, lake: Settings, name: str, at: Watch) -> None:
    """The same without event dates; events that another run takes away meanwhile are not taken for others."""
    ds = created(spark, lake, name, UNDATED)
    columns: dict[str, Any] = {"grain": "event", "sequence": "words", "missing": "null"}
    events = ds.handle.cut().stored("events_words")
    given = events.select("u", "position", F.length("words").alias("n"))
    ds.features.add("some", given.filter("position % 3 <> 1").withColumnRenamed("n", "m"), **columns)
    at_three = {(r["u"], r["position"]): r["n"] for r in given.filter("position % 3 <> 1").collect()}
    stored = {(r["u"], r["position"]): r["m"] for r in ds.handle.cut().stored("fe1_some").collect()}
    assert stored == {key: at_three.get(key) for key in ((r["u"], r["position"]) for r in given.collect())}
    with pytest.raises(QualityGateError, match="missing_keys"):
        ds.features.add("all", given.filter("position <> 2"), **{**columns, "missing": "refuse"})

    uri = f"{lake.warehouse_uri}/{name}/lengths"
    table = f"delta.`{uri}`" if lake.format == "delta" else f"{lake.catalog.name}.{name}.lengths"
    known = "SELECT DISTINCT words AS word, length(words) AS n FROM events_to_look_up"
    events.createOrReplaceTempView("events_to_look_up")
    spark.sql(f"CREATE TABLE {table} USING {lake.format} AS {known}")
    ds.features.add("length", Lookup(f"{name}.lengths", {"words": "word"}, {"n": "n"}), **columns)
    ds.write(log(spark, [3], UNDATED), gate=False)
    log(spark, [3]).frame.selectExpr("explode(words) AS words").createOrReplaceTempView("events_to_look_up")
    spark.sql(f"MERGE INTO {table} t USING ({known}) s ON t.word = s.word WHEN NOT MATCHED THEN INSERT *")
    assert ds.features.refresh("length", gate=False).replaced
    assert shown(ds.requests(), ["n"]) == {key: [lists[2]] for key, lists in plain(ds).items()}

    other = Dataset.open(spark, lake, name)
    at("features:audited", lambda: other.rollback(1))
    with pytest.raises(ConflictError, match=r"rolled .* back"):
        ds.features.add("late", {"z": "length(words)"}, **columns)
    assert not ds.features()
