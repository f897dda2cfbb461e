"""Plugins that lose rows of joins inside buckets: what bucket_join refuses in a session that has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.joins import bucket_join, explain_join
from dedup_storage.dataset.joins import plugins as known
from dedup_storage.dataset.joins.model import Cause
from dedup_storage.dataset.joins.settings import COMPATIBLE_COUNTS
from dedup_storage.errors import ShuffleRefusedError
from tests.spark.join_tables import Tables, exchanges, same_as_plain

pytestmark = pytest.mark.usefixtures("compiled")

# Sets a session's plugins, and the version that RAPIDS says it has.
Plug = Callable[[str, str | None], None]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Plug:
    def plugged(classes: str, version: str | None) -> None:
        monkeypatch.setattr(known, "_named", lambda spark: classes)
        monkeypatch.setattr(known, "rapids_version", lambda spark: version)

    return plugged


@pytest.fixture(scope="module")
def tables(spark: SparkSession, settings: Settings) -> Tables:
    return Tables(spark, settings.catalog.name)


@pytest.fixture
def sides(tables: Tables) -> dict[int, DataFrame]:
    """Tables of four and of two buckets."""
    named = {n: tables(f"p{n}", f"bucket({n}, user_id)") for n in (4, 2)}
    return {n: tables.spark.table(name).drop("event_date") for n, name in named.items()}


@pytest.fixture
def compatible(spark: SparkSession) -> Iterator[None]:
    """The setting under which Spark itself groups unequal counts, in the caller's session."""
    ((key, value),) = COMPATIBLE_COUNTS.items()
    before = spark.conf.get(key)
    spark.conf.set(key, value)
    yield
    spark.conf.set(key, str(before))


RAPIDS, AURON = "com.nvidia.spark.SQLPlugin", "org.apache.spark.sql.auron.AuronSparkSessionExtension"


@pytest.mark.long
@pytest.mark.usefixtures("compatible")
def test_unequal_counts_are_refused_with_rapids(sides: dict[int, DataFrame], tables: Tables, plug: Plug) -> None:
    free = bucket_join(sides[4], sides[2])
    assert exchanges(free) == 0
    same_as_plain(free, sides[4], sides[2])
    plug(RAPIDS, "26.06.0")
    with pytest.raises(ShuffleRefusedError) as refused:
        bucket_join(sides[4], sides[2])
    assert "RAPIDS 26.06.0 loses rows of joins of unequal bucket counts (NVIDIA/cudf-spark#15721)" in str(refused.value)
    assert "Use RAPIDS 26.10 or newer, or set spark.rapids.sql.enabled to false" in str(refused.value)
    (explained,) = explain_join(sides[4], sides[2]).joins
    assert Cause.BUCKETS in {reason.cause for reason in explained.reasons}
    for mode in ("one-side", "warn"):
        if mode == "warn":
            with pytest.warns(UserWarning, match=r"RAPIDS 26\.06\.0 loses rows"):
                moved = bucket_join(sides[4], sides[2], exchange=mode)
        else:
            moved = bucket_join(sides[4], sides[2], exchange=mode)
        assert exchanges(moved) >= 1
        same_as_plain(moved, sides[4], sides[2])
    other = tables.spark.table(tables("q4", "bucket(4, user_id)")).drop("event_date")
    equal = bucket_join(sides[4], other)
    assert exchanges(equal) == 0
    same_as_plain(equal, sides[4], other)


def test_every_join_inside_buckets_is_refused_with_auron(sides: dict[int, DataFrame], plug: Plug) -> None:
    plug(AURON, None)
    one = sides[4].withColumnRenamed("v_p4", "other")
    with pytest.raises(ShuffleRefusedError, match=r"Auron of an unknown version loses rows .*apache/auron#2390"):
        bucket_join(sides[4], one)
    with pytest.warns(UserWarning, match="Auron"):
        moved = bucket_join(sides[4], one, exchange="warn")
    assert exchanges(moved) == 2
    same_as_plain(moved, sides[4], one)
