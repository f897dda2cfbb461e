"""Samples of a version whose columns are others than the newest one's, and what counts as a positive label."""

from __future__ import annotations

from collections import defaultdict

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import InputError, SchemaError
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import flat_rows, flat_schema, frame, same_rows

# The second log brings the first labels (a third of ``score`` NaN), the first list, and a number of 16 bits.
LATER = {
    "score": "if(item % 3 = 0, double('NaN'), double(y))",
    "ok": "y = 1",
    "word": "if(y = 1, 'yes', 'no')",
    "events": "hist",
    "small": "smallint(item)",
}


@pytest.fixture(scope="session")
def ds(spark: SparkSession, settings: Settings) -> Dataset:
    """Two versions, the first without a label or a list; tests add samples of their own names."""
    bare, labels = {"labels": [], "sequences": []}, ["score", "ok", "word"]
    logs = [frame(spark, flat_rows([day], users=6, candidates=5, first_request=100 * day)) for day in (1, 2)]
    first = RawLog.from_frame(logs[0].drop("hist", "y"), flat_schema(**bare))
    made = logs[1].selectExpr("*", *(f"{sql} as {c}" for c, sql in LATER.items())).drop("hist", "y")
    second = RawLog.from_frame(made, flat_schema(labels=labels, sequences=[{"column": "events"}]))
    created = Dataset.create(spark, settings, "t_sampling_versions", first.schema, first)
    created.write(first, gate=False)
    created.write(second, add_columns="all", gate=False)
    return created


@pytest.mark.long
def test_an_older_version_is_read_by_its_own_columns(ds: Dataset) -> None:
    ds.samples.make("first", fraction=1, version=1)
    report = ds.samples.report("first", verify=True)
    assert {m.metric: (m.estimate, m.truth) for m in report.metrics} == {
        "requests per user": (1, 1),
        "impressions per request": (5, 5),
    }
    ds.samples.materialise("first", "t_sampling_versions_first", version=1, gate=False)
    made = Dataset.open(ds.spark, ds.settings, "t_sampling_versions_first")
    same_rows(made.logs().select(*ds.logs(1).columns), ds.logs(1))


def test_positives_are_numbers_above_zero_and_true_values(ds: Dataset) -> None:
    ds.samples.make("second", fraction=1)
    rows = ds.impressions().collect()
    known = [r["score"] for r in rows if r["score"] is not None and r["score"] == r["score"]]
    rate = {m.metric: m for m in ds.samples.report("second", verify=True).metrics}["label rate"]
    assert 0 < len(known) < len(rows) / 2
    assert (rate.estimate, rate.truth) == pytest.approx((sum(known) / len(known),) * 2)
    for label in ("score", "ok"):
        ds.samples.make(f"by_{label}", fraction=1, caps={"impressions": 1, "label": label})
        positives: dict[int, int] = defaultdict(int)
        for row in rows:
            positives[row["request_id"]] += bool(row[label] is not None and row[label] > 0)
        sampled = ds.impressions(sample=f"by_{label}").groupBy("request_id")
        found = sampled.agg(F.count("*").alias("n"), F.sum("impression_weight").alias("w")).collect()
        # Of five impressions all positives stay, and one negative, which stands for all of them.
        assert {r["request_id"]: (r["n"], r["w"]) for r in found} == {
            request: (n + (n < 5), 5.0) for request, n in positives.items()
        }
    ds.samples.make("by_word", fraction=1, caps={"impressions": 1, "label": "word"})
    with pytest.raises(SchemaError, match=r"the label word tells no positives.*string"):
        ds.impressions(sample="by_word")


def test_a_number_is_held_by_the_type_that_the_log_gave_its_column(ds: Dataset) -> None:
    """Iceberg stores 16 bits as 32; a greater number would be stored, and could never be read."""
    with pytest.raises(InputError, match=r"cannot hold 60 new values.*smallint"):
        ds.plan_backfill(Change(expressions={"small": "70000"}))
