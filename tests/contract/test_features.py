"""Feature groups: added, refreshed, renamed, dropped, in every version as it was; in the reader."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.errors import QualityGateError, UnknownColumnError, UsageError
from dedup_storage.reader import DedupDataset
from dedup_storage.spark.dataset import Dataset
from tests.contract.conftest import MakeLog
from tests.spark.helpers import multiset, same_rows


def length(ds: Dataset) -> DataFrame:
    return ds.requests(features=()).withColumn("n", F.expr("size(hist)"))


@pytest.mark.slow
def test_a_group_lives_through_versions(lake: Settings, ds: Dataset, make_log: MakeLog) -> None:
    added = ds.add_features("length", {"n": "size(hist)"}, run_id="add")
    assert (added.version, added.rows, added.gate) == (2, 5, "passed")
    assert ds.add_features("length", {"n": "size(hist)"}, run_id="add").version == 2
    assert multiset(ds.requests()) == multiset(length(ds))
    assert ds.logs(1).columns == make_log([1]).frame.columns
    ds.add_features("seen", {"seen": "array_contains(hist, item)"}, grain="impression", gate=False)

    ds.write(make_log([2], 100), gate=False)
    assert ds.requests().filter("n IS NULL").count() == 5
    refreshed = ds.refresh_features("length", gate=False)
    assert refreshed.rows == 5
    assert multiset(ds.requests()) == multiset(length(ds))
    assert ds.refresh_features("length").up_to_date
    ds.write(make_log([1], 200), mode="replace", gate=False)
    ds.refresh_features("length", gate=False)
    assert multiset(ds.requests()) == multiset(length(ds))
    ds.refresh_features("seen", gate=False)
    expected = ds.logs(features=()).withColumn("n", F.expr("size(hist)"))
    same_rows(ds.logs(), expected.withColumn("seen", F.expr("array_contains(hist, item)")))

    delivered = {}
    for batch in DedupDataset(ds.name, lake):
        delivered.update(zip(batch["request_id"].decode(), batch["n"].decode(), strict=True))
        assert batch.grains["seen"].value == "impression"
    assert delivered == {r["request_id"]: r["n"] for r in ds.requests().collect()}

    ds.rename_features("length", "size")
    assert set(ds.features()) == {"seen", "size"}
    ds.drop_features("size")
    assert set(ds.features()) == {"seen"}
    assert "n" not in ds.requests().columns
    before = ds.metadata().current - 1
    assert "n" in ds.requests(before).columns
    ds.rollback(before)
    assert set(ds.features()) == {"seen", "size"}
    with pytest.raises(UnknownColumnError, match="no feature group length"):
        ds.drop_features("length")


def test_what_a_group_may_not_be(ds: Dataset) -> None:
    with pytest.raises(UsageError):
        ds.add_features("country", {"country": "upper(country)"})
    some = ds.requests().filter("user_id > 0").select("user_id", "request_id", F.lit(1).alias("one"))
    with pytest.raises(QualityGateError):
        ds.add_features("some", some)
    assert ds.metadata().current == 1
