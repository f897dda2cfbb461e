"""Named samples in Spark and in the reader: the same users, exact counts, weights, caps, refresh, bytes."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.dataset.samples.columns import user_point
from dedup_storage.errors import ConfigError, DedupStorageError, UsageError
from dedup_storage.lake.engine.status import counted_reads
from dedup_storage.reader import DedupDataset
from dedup_storage.report.show.samples import html
from dedup_storage.sampling.hashing import limit, user_points
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import day, flat_schema, frame, same_rows

COUNTRIES = ("DK", "SE", None)


def log_rows(days: list[int], users: int = 60, *, first_user: int = 0) -> list[tuple[Any, ...]]:
    """User u makes u % 4 + 1 requests over the days, with 2 to 6 impressions and u % 5 events of history each."""
    rows: list[tuple[Any, ...]] = []
    for user in range(first_user, first_user + users):
        for number in range(user % 4 + 1):
            moment = day(days[number % len(days)], number)
            request = user * 10 + number + 1000 * days[0]
            for c in range(2 + (user + number) % 5):
                positive = int(c < user % 3)
                country = COUNTRIES[user % 3]
                rows.append((user, request, moment, country, list(range(user % 5)), c, positive))
    return rows


def written(spark: SparkSession, settings: Settings, name: str, rows: list[tuple[Any, ...]], **options: Any) -> Dataset:
    raw = RawLog.from_frame(frame(spark, rows), flat_schema())
    ds = Dataset.create(spark, settings, name, raw.schema, raw, **options)
    ds.write(raw, gate=False)
    return ds


@pytest.fixture(scope="session")
def ds(spark: SparkSession, settings: Settings) -> Dataset:
    """60 users in 4 buckets over 3 days, split layout; tests add samples of their own names."""
    return written(spark, settings, "t_sampling", log_rows([1, 2, 3]))


def users_of(df: DataFrame) -> set[int]:
    return {row[0] for row in df.select("user_id").distinct().collect()}


def test_points_are_the_same_in_spark_and_numpy(spark: SparkSession) -> None:
    integers = [-(2**63), -5, -1, 0, 1, 7, 2**31, 2**63 - 1]
    texts = ["", "a", "é", "日本", "user-12345678901234567890123456789012345678901234567890", "x" * 33, "NULL"]
    for values, kind in ((integers, "bigint"), ([v for v in integers if abs(v) < 2**31], "int"), (texts, "string")):
        df = frame(spark, [(v,) for v in values], f"u {kind}")
        for seed in (0, 1, 2**63 - 1):
            rows = df.select("u", user_point(df, "u", seed).alias("p")).collect()
            assert dict(map(tuple, rows)) == dict(
                zip(values, user_points(pa.array(values), seed).tolist(), strict=True)
            )


@pytest.mark.long
def test_the_same_users_in_any_layout_and_in_the_reader(spark: SparkSession, settings: Settings, ds: Dataset) -> None:
    summary = ds.samples.make("third", fraction=1 / 3, seed=7)
    wanted = {u for u in range(60) if user_points(pa.array([u]), 7)[0] < limit(1 / 3)}
    assert (summary.users, summary.population) == (len(wanted), 60)
    assert summary.strata[0].weight == pytest.approx(3)
    flat = written(spark, settings, "t_sampling_flat", log_rows([1, 2, 3]), layout="flat", buckets=2, date_grain="none")
    flat.samples.make("third", fraction=1 / 3, seed=7)
    for each in (ds, flat):
        for rows in (each.requests(sample="third"), each.impressions(sample="third"), each.logs(sample="third")):
            assert users_of(rows) == wanted
        whole = each.logs().filter(F.col("user_id").isin(*wanted))
        same_rows(each.logs(sample="third").drop("impression_weight"), whole)
        found: set[int] = set()
        for batch in DedupDataset(each.name, settings, sample="third"):
            found |= set(batch["user_id"].values.tolist())
            assert batch["request_weight"].values.tolist() == pytest.approx([3.0] * batch.num_requests)
            assert batch["impression_weight"].values.tolist() == pytest.approx([3.0] * batch.num_impressions)
        assert found == wanted


STRATA = [{"name": "country", "column": "country"}, {"name": "activity", "measure": "requests", "cuts": [3]}]


def stratum(user: int) -> str:
    country = COUNTRIES[user % 3] or "null"
    return f"country={country},activity={1 + int(user % 4 + 1 >= 3)}"


def test_strata_shares_weights_and_the_reader(settings: Settings, ds: Dataset) -> None:
    fractions = {"country=DK,activity=1": 0.5, "country=null,activity=2": 1.0, "*": 0.25}
    summary = ds.samples.make("strata", fractions=fractions, strata=STRATA, seed=3)
    sizes = Counter(stratum(u) for u in range(60))
    assert {row.stratum: row.users for row in summary.strata} == dict(sizes)
    points = dict(zip(range(60), user_points(np.arange(60), 3).tolist(), strict=True))
    share = {u: fractions.get(stratum(u), 0.25) for u in range(60)}
    wanted = {u for u in range(60) if points[u] < limit(share[u])}
    assert {row["user_id"]: (row["stratum"], row["user_weight"]) for row in ds.samples.users("strata").collect()} == {
        u: (stratum(u), 1 / share[u]) for u in wanted
    }
    rows = ds.requests(sample="strata").select("user_id", "request_weight").collect()
    assert {(row[0], row[1]) for row in rows} == {(u, 1 / share[u]) for u in wanted}
    found = {}
    for batch in DedupDataset(ds.name, settings, sample="strata", columns=["user_id", "request_weight"]):
        found |= dict(zip(batch["user_id"].values.tolist(), batch["request_weight"].values.tolist(), strict=True))
    assert found == {u: 1 / share[u] for u in wanted}


@pytest.mark.long
def test_exact_counts_by_hash_rank_are_nested(ds: Dataset) -> None:
    kept = {}
    for size in (6, 18):
        summary = ds.samples.make(f"equal{size}", size=size, allocation="equal", strata=STRATA[:1], seed=5)
        assert {row.sampled for row in summary.strata} == {size // 3}
        kept[size] = {row["user_id"] for row in ds.samples.users(f"equal{size}").collect()}
    assert kept[6] < kept[18]
    points = user_points(np.arange(60), 5)
    for country in range(3):
        ranked = sorted(range(country, 60, 3), key=lambda u: int(points[u]))
        assert {u for u in kept[6] if u % 3 == country} == set(ranked[:2])
    targets = ds.samples.make("targets", targets={"country=DK": 20, "*": 1}, strata=STRATA[:1])
    assert [(r.sampled, r.requested) for r in targets.strata] == [(20, 20), (1, 1), (1, 1)]
    neyman = ds.samples.make(
        "neyman", size=12, allocation="neyman", by="label_rate", minimum=2, strata=STRATA[:1], seed=5
    )
    # Users of DK have no positives at all: their spread is 0, so they get the minimum.
    assert {r.stratum: r.sampled for r in neyman.strata}["country=DK"] == 2
    assert neyman.users == 12


@pytest.mark.slow
def test_measures_and_quantiles(ds: Dataset) -> None:
    measures = ("requests", "impressions", "label_rate", "sequence_length", "tenure_days", "recency_days")
    for measure in measures:
        summary = ds.samples.make(
            f"by_{measure}", fraction=1, strata=[{"name": "m", "measure": measure, "quantiles": 3}]
        )
        assert summary.users == 60
        assert 2 <= len(summary.strata) <= 3
    by_length = {r["user_id"]: r["stratum"] for r in ds.samples.users("by_sequence_length").collect()}
    borders = ds.samples.describe("by_sequence_length")["borders"]["m"]
    assert by_length == {u: f"m={1 + sum(u % 5 >= b for b in borders)}" for u in range(60)}
    expression = ds.samples.make(
        "by_expression", fraction=1, strata=[{"name": "d", "expression": "count(DISTINCT to_date(ts))"}]
    )
    assert [row.stratum for row in expression.strata] == ["d=1", "d=2", "d=3"]


@pytest.mark.long
def test_dates_and_divisions_share_nothing(ds: Dataset, settings: Settings) -> None:
    ds.samples.split({"train": 0.7, "validation": 0.2, "test": 0.1}, seed=2)
    parts = [users_of(ds.requests(sample=n)) for n in ("train", "validation", "test")]
    assert sum(map(len, parts)) == 60
    assert set.union(*parts) == set(range(60))
    dates = {"early": (None, dt.date(2024, 1, 2)), "late": (dt.date(2024, 1, 3), None)}
    ds.samples.split({"early": 0.5, "late": 0.5}, dates, seed=2)
    early, late = (ds.logs(sample=n) for n in ("early", "late"))
    assert not users_of(early) & users_of(late)
    assert {r[0] for r in early.select(F.to_date("ts")).distinct().collect()} == {dt.date(2024, 1, d) for d in (1, 2)}
    assert {r[0] for r in late.select(F.to_date("ts")).distinct().collect()} == {dt.date(2024, 1, 3)}
    keys = {tuple(r) for r in early.select("user_id", "request_id").distinct().collect()}
    assert {tuple(r) for r in ds.impressions(sample="early").select("user_id", "request_id").collect()} == keys
    read = set()
    for batch in DedupDataset(ds.name, settings, sample="early"):
        read |= set(zip(batch["user_id"].values.tolist(), batch["request_id"].values.tolist(), strict=True))
    assert read == keys


def test_dates_are_utc_in_every_session(ds: Dataset) -> None:
    """Most requests are made in the first hours of a day, which in New York are the evening before."""
    session = ds.spark.newSession()
    session.conf.set("spark.sql.session.timeZone", "America/New_York")
    there = Dataset.open(session, ds.settings, ds.name)
    third = {u for u in range(60) if u % 4 >= 2}
    assert there.samples.make("third_day", fraction=1, start="2024-01-03", end="2024-01-03").users == len(third)
    assert users_of(there.samples.users("third_day")) == users_of(there.logs(sample="third_day")) == third
    days = [{"name": "d", "expression": "max(to_date(ts))"}]
    made = there.samples.make("by_day", fraction=1, start="2024-01-03", strata=days)
    assert [row.stratum for row in made.strata] == ["d=2024-01-03"]
    assert there.samples.report("third_day").metrics[1].estimate == 1


@pytest.mark.long
def test_caps_of_requests(ds: Dataset) -> None:
    whole = defaultdict(list)
    for row in ds.requests().select("user_id", "request_id", "ts").collect():
        whole[row["user_id"]].append((row["ts"], row["request_id"]))
    for keep in ("latest", "earliest", "random"):
        ds.samples.make(f"cap_{keep}", fraction=1, caps={"requests": 2, "keep": keep})
        found = defaultdict(list)
        for row in ds.requests(sample=f"cap_{keep}").collect():
            found[row["user_id"]].append((row["ts"], row["request_id"], row["request_weight"]))
        for user, requests in whole.items():
            mine = sorted(found[user])
            assert len(mine) == min(2, len(requests))
            weight = len(requests) / len(mine) if keep == "random" else 1.0
            assert {w for *_, w in mine} == {weight}
            ordered = sorted(requests)
            if keep != "random":
                wanted = ordered[-2:] if keep == "latest" else ordered[:2]
                assert [(t, r) for t, r, _ in mine] == wanted
        weights = ds.logs(sample=f"cap_{keep}").agg(F.sum("impression_weight")).first()
        assert weights is not None
    assert {r["request_id"] for r in ds.impressions(sample="cap_random").collect()} == {
        r["request_id"] for r in ds.requests(sample="cap_random").collect()
    }


def test_caps_of_impressions_keep_positives_and_weigh_negatives(ds: Dataset, settings: Settings) -> None:
    ds.samples.make("few", fraction=1, caps={"impressions": 3}, seed=4)
    before, after = defaultdict(list), defaultdict(list)
    for row in ds.impressions().collect():
        before[row["user_id"], row["request_id"]].append(row["y"])
    for row in ds.impressions(sample="few").collect():
        after[row["user_id"], row["request_id"]].append((row["y"], row["impression_weight"]))
    assert set(before) == set(after)
    for key, labels in before.items():
        positives, negatives = sum(labels), len(labels) - sum(labels)
        mine = after[key]
        assert sum(y for y, _ in mine) == positives
        kept = [w for y, w in mine if not y]
        assert len(kept) == min(negatives, max(3 - positives, 1))
        assert sum(kept) == pytest.approx(negatives)
        assert all(w == 1 for y, w in mine if y)
    logs = ds.logs(sample="few")
    assert logs.columns == [*ds.logs().columns, "impression_weight"]
    assert logs.count() == sum(map(len, after.values()))
    with pytest.raises(ConfigError, match="sample materialise"):
        DedupDataset(ds.name, settings, sample="few")

    ds.samples.make("shares", fraction=1, strata=STRATA[:1], caps={"negatives": {"country=DK": 0.5, "*": 1.0}}, seed=4)
    rows = ds.logs(sample="shares").select("country", "y", "impression_weight").collect()
    assert {(r[0] == "DK", r[1], r[2]) for r in rows} == {(True, 0, 2.0), (False, 0, 1.0), (False, 1, 1.0)}


@pytest.mark.long
def test_materialised_sample_carries_its_weights(ds: Dataset, settings: Settings) -> None:
    ds.samples.make("small", fraction=0.5, caps={"requests": 2, "keep": "random", "impressions": 3}, seed=1)
    summary = ds.samples.materialise("small", "t_sampling_small", gate=False)
    assert ds.samples.materialise("small", "t_sampling_small", gate=False).already_published
    made = Dataset.open(ds.spark, ds.settings, "t_sampling_small")
    assert summary.impressions == ds.impressions(sample="small").count()
    same_rows(made.requests().select(*ds.requests(sample="small").columns), ds.requests(sample="small"))
    same_rows(made.impressions().select(*ds.impressions(sample="small").columns), ds.impressions(sample="small"))
    weights = {}
    for batch in DedupDataset("t_sampling_small", settings):
        weights |= dict(zip(batch["request_id"].values.tolist(), batch["request_weight"].values.tolist(), strict=True))
        assert batch["impression_weight"].values.shape == (batch.num_impressions,)
    expected = ds.requests(sample="small").select("request_id", "request_weight").collect()
    assert weights == {r[0]: r[1] for r in expected}
    made.samples.make("again", fraction=1)
    with pytest.raises(UsageError, match="is a sample itself"):
        made.samples.materialise("again", "t_sampling_again")


def test_a_bucket_sample_opens_its_buckets_alone(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = written(spark, settings, name, log_rows([1], users=200), buckets=16, date_grain="none")
    summary = ds.samples.make("two", buckets=2, seed=9)
    assert summary.strata[0].weight == 8
    plan = ds.samples.plan("two")
    assert (plan.pruned_by, plan.note) == (("buckets",), "")
    ds.samples.make("hashed", fraction=0.2)
    whole = ds.samples.plan("hashed")
    assert (whole.pruned_by, whole.bytes) == ((), whole.all_bytes)
    assert whole.note.startswith("No file is left out: users are chosen by a hash of their own")
    assert [(t.files, t.all_files) for t in plan.tables] == [(2, 16), (2, 16)]
    with counted_reads(spark) as whole_log:
        full = users_of(ds.logs())
    with counted_reads(spark) as its_buckets:
        kept = users_of(ds.logs(sample="two"))
    assert len(kept) == summary.users
    assert kept < full
    assert 0 < its_buckets.bytes < 0.25 * whole_log.bytes
    dataset = DedupDataset(name, settings, sample="two")
    assert len({u.file for u in dataset.plan.units}) == 2
    assert {u for b in dataset for u in b["user_id"].values.tolist()} == kept


@pytest.mark.long
def test_refresh_takes_new_users_and_keeps_old_strata(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = written(spark, settings, name, log_rows([1], users=30))
    spec = {"fractions": {"*": 0.5}, "strata": [{"name": "m", "measure": "requests", "quantiles": 2}], "seed": 1}
    ds.samples.make("half", spec)
    ds.samples.make("hash", fraction=0.5, seed=1)
    ds.samples.make("counts", size=10, strata=STRATA[:1], seed=1)
    ds.samples.make("idle", fraction=1, strata=[{"name": "idle", "measure": "recency_days", "cuts": [2]}])
    before = {r["user_id"]: r["stratum"] for r in ds.samples.users("half").collect()}
    state = DedupDataset(name, settings, sample="half").state_dict()
    assert ds.samples.refresh("half").unchanged
    # A known user comes last of all, five days after the new ones.
    later = [*log_rows([2], users=20, first_user=20), *log_rows([7], users=1)]
    ds.write(RawLog.from_frame(frame(spark, later), flat_schema()), gate=False)
    assert users_of(ds.requests(sample="half")) == set(before)
    done = ds.samples.refresh("half")
    assert not done.unchanged
    assert (done.version, done.population) == (2, 40)
    after = {r["user_id"]: r["stratum"] for r in ds.samples.users("half").collect()}
    assert {u: after[u] for u in before} == before
    assert set(after) == {u for u in range(40) if user_points(pa.array([u]), 1)[0] < limit(0.5)}
    assert users_of(ds.requests(sample="hash")) == set(after)
    assert ds.samples.refresh("hash").population == 40
    assert ds.samples.refresh("counts").users == 10
    assert {row.stratum: row.users for row in ds.samples.refresh("idle").strata} == {"idle=1": 30, "idle=2": 10}
    assert ds.samples.refresh("half").unchanged
    fresh = DedupDataset(name, settings, sample="half", version=1)
    with pytest.raises(DedupStorageError, match="filters"):
        fresh.load_state_dict(state)


def test_named_samples_are_listed_described_and_dropped(ds: Dataset, settings: Settings) -> None:
    ds.samples.make("brief", fraction=0.1, strata=STRATA)
    assert ds.samples.make("brief", fraction=0.1, strata=STRATA).unchanged
    with pytest.raises(UsageError, match="another definition"):
        ds.samples.make("brief", fraction=0.2, strata=STRATA)
    assert "brief" in [s.name for s in ds.samples()]
    described = ds.samples.describe("brief")
    assert (described["version"], described["spec"]["fraction"], described["table"]) == (1, 0.1, "sm_brief")
    versions = [v.version for v in ds.versions()]
    ds.samples.drop("brief")
    assert "brief" not in [s.name for s in ds.samples()]
    with pytest.raises(UsageError, match="no sample brief"):
        ds.logs(sample="brief")
    with pytest.raises(ConfigError, match="no sample brief"):
        DedupDataset(ds.name, settings, sample="brief")
    assert [v.version for v in ds.versions()] == versions


@pytest.mark.parametrize(
    ("values", "needle"),
    [
        ({"fractions": {"country=FI": 0.5, "*": 1}, "strata": STRATA[:1]}, "no stratum country=FI"),
        ({"fractions": {"country=DK": 0.5}, "strata": STRATA[:1]}, "has no fraction"),
        ({"targets": {"country=DK": 21, "*": 1}, "strata": STRATA[:1]}, "expected 0 to 20 users; got 21"),
        ({"size": 61}, "1 to 60 users"),
        ({"buckets": 5}, "fewer buckets"),
        ({"fraction": 1, "strata": [{"name": "c", "column": "county"}]}, "column county"),
        ({"fraction": 1, "strata": [{"name": "c", "column": "country", "cuts": [1]}]}, "no numbers to divide"),
        ({"fraction": 1, "start": "2031-01-01", "strata": STRATA}, "no users in the sample's dates"),
    ],
)  # fmt: skip
def test_wrong_samples_are_named_and_nothing_is_stored(ds: Dataset, values: dict[str, Any], needle: str) -> None:
    with pytest.raises(DedupStorageError, match=needle) as error:
        ds.samples.make("wrong", values)
    assert error.value.exit_code == 2
    assert "wrong" not in [s.name for s in ds.samples()]


@pytest.mark.long
def test_report_estimates_and_verifies(ds: Dataset) -> None:
    fractions = {"activity=1": 0.5, "activity=2": 0.9}
    ds.samples.make("reported", fractions=fractions, strata=STRATA[1:], seed=8)
    report = ds.samples.report("reported", verify=True)
    rows, requests = ds.impressions().collect(), ds.requests().collect()
    truth = {
        "label rate": sum(r["y"] for r in rows) / len(rows),
        "requests per user": len(requests) / 60,
        "impressions per request": len(rows) / len(requests),
        "sequence length": sum(len(r["hist"]) for r in requests) / len(requests),
    }
    assert {m.metric: m.truth for m in report.metrics} == pytest.approx(truth)
    chosen = {r["user_id"]: r["user_weight"] for r in ds.samples.users("reported").collect()}
    weights = [chosen[r["user_id"]] for r in requests if r["user_id"] in chosen]
    by_name = {m.metric: m for m in report.metrics}
    assert by_name["requests per user"].estimate == pytest.approx(sum(weights) / sum(chosen.values()))
    assert by_name["requests per user"].unweighted == pytest.approx(len(weights) / len(chosen))
    shown = [(chosen[r["user_id"]], r["y"]) for r in rows if r["user_id"] in chosen]
    assert by_name["label rate"].estimate == pytest.approx(sum(w * y for w, y in shown) / sum(w for w, _ in shown))
    assert all(m.low < m.estimate < m.high for m in report.metrics)
    assert report.weights.design_effect >= 1
    assert report.read_bytes > 0
    page = html(report)
    assert page.count("<svg") == 2
    assert "activity=1" in page
    whole = ds.samples.report("reported", confidence=0.5)
    assert whole.metrics[0].high < by_name["label rate"].high


@pytest.mark.long
def test_report_on_buckets_and_caps(ds: Dataset) -> None:
    ds.samples.make("clusters", buckets=3, seed=2)
    clusters = ds.samples.report("clusters", verify=True)
    assert clusters.summary.design == "buckets"
    assert all(m.standard_error > 0 for m in clusters.metrics)
    ds.samples.make("everybody", fraction=1, caps={"requests": 1, "keep": "latest"})
    found = {m.metric: m for m in ds.samples.report("everybody", verify=True).metrics}
    assert found["requests per user"].estimate == found["requests per user"].truth == 1
    assert found["label rate"].covered
    ds.samples.make("halved", fraction=1, caps={"impressions": 2})
    halved = {m.metric: m for m in ds.samples.report("halved", verify=True).metrics}
    # Weights give back what the cap took, exactly, since every request keeps a negative.
    assert halved["impressions per request"].estimate == pytest.approx(halved["impressions per request"].truth)
    assert halved["label rate"].estimate == pytest.approx(halved["label rate"].truth)


class _CrashError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("point", ["sample:users-stored", "sample:before-record"])
def test_a_crash_leaves_the_sample_before_and_the_next_run_finishes(
    spark: SparkSession, settings: Settings, name: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    ds = written(spark, settings, name, log_rows([1], users=20))
    ds.samples.make("kept", fraction=0.5, strata=STRATA[:1])
    before = {r["user_id"] for r in ds.samples.users("kept").collect()}
    more = RawLog.from_frame(frame(spark, log_rows([2], users=20, first_user=20)), flat_schema())
    ds.write(more, gate=False)

    def crash(reached: str) -> None:
        if reached == point:
            raise _CrashError

    monkeypatch.setattr("dedup_storage.dataset.samples.store.reached", crash)
    with pytest.raises(_CrashError):
        ds.samples.refresh("kept")
    monkeypatch.undo()
    assert {r["user_id"] for r in ds.samples.users("kept").collect()} == before
    assert {u for b in DedupDataset(name, settings, sample="kept") for u in b["user_id"].values.tolist()} == before
    assert ds.samples.refresh("kept").population == 40
    after = {r["user_id"] for r in ds.samples.users("kept").collect()}
    assert before < after
    assert [v.version for v in ds.versions()] == [1, 2]
