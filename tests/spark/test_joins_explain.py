"""Explanations: what moves, how much, why; the same on the terminal and as JSON."""

from __future__ import annotations

import io
import json

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.console import Console

from dedup_storage.config import Settings
from dedup_storage.dataset.joins import Cause, JoinExplanation, explain_join
from dedup_storage.dataset.joins.model import StepKind
from dedup_storage.errors import UsageError
from tests.spark.join_tables import KEYS, Tables

pytestmark = pytest.mark.usefixtures("compiled")

DAILY = "event_date, bucket(4, user_id)"


@pytest.fixture(scope="module")
def tables(spark: SparkSession, settings: Settings) -> Tables:
    return Tables(spark, settings.catalog.name)


def causes(explanation: JoinExplanation) -> set[Cause]:
    return {r.cause for join in explanation.joins for r in join.reasons if r.blocks}


def shown(explanation: JoinExplanation) -> str:
    text = io.StringIO()
    Console(width=400, file=text).print(explanation)
    return text.getvalue()


def test_a_join_that_stays(tables: Tables) -> None:
    left, right = tables("a", DAILY), tables("b", DAILY)
    found = explain_join(left, right, spark=tables.spark)
    join = found.joins[0]
    assert found.shuffle_free
    assert join.shuffle_free
    assert causes(found) == set()
    assert join.on == (*KEYS, "event_date")
    assert (join.left.buckets, join.left.rows, join.left.partitions) == (4, 600, ("event_date", "bucket[4] of user_id"))
    assert [s.kind for s in found.steps] == [StepKind.SORT, StepKind.SORT]
    files = tables.spark.table(f"{left}.files")
    assert join.left.files == files.count()
    sizes = files.select(F.explode(F.map_values("column_sizes")).alias("s")).agg(F.sum("s")).first()
    assert sizes is not None
    assert join.left.stored_bytes == sizes[0]
    # Three columns of 8 bytes and a date, which takes a slot of 8 too.
    assert join.left.row_bytes == 600 * 32
    assert "no row moves" in shown(found)
    assert json.loads(found.model_dump_json())["joins"][0]["left"]["rows"] == 600
    assert JoinExplanation.model_validate_json(found.model_dump_json()) == found


def test_a_session_that_lacks_the_settings(tables: Tables) -> None:
    left, right = tables("a", DAILY), tables("b", DAILY)
    session = tables.spark.newSession()
    session.conf.set("spark.sql.autoBroadcastJoinThreshold", "-1")
    session.conf.set("spark.sql.iceberg.planning.preserve-data-grouping", "false")
    query = session.table(left).join(session.table(right), [*KEYS, "event_date"])
    found = explain_join(query)
    assert causes(found) == {Cause.SETTING}
    assert not found.shuffle_free
    moving = [s for s in found.steps if s.kind is StepKind.SHUFFLE]
    assert [s.tables for s in moving] == [(left,), (right,)]
    assert [s.rows for s in moving] == [600, 600]
    assert "hashpartitioning" in moving[0].detail
    text = shown(found)
    assert "preserve-data-grouping is false" in text
    assert "19.2 kB" in text
    ours = explain_join(left, right, spark=session)
    assert ours.shuffle_free
    assert ours.bucket_join is not None
    assert "without moving a row; the session lacks spark.sql.iceberg" in ours.bucket_join


def test_broadcasts(tables: Tables) -> None:
    query = tables.spark.table(tables("a", DAILY)).join(F.broadcast(tables.spark.table(tables("b", DAILY))), list(KEYS))
    found = explain_join(query)
    assert causes(found) == {Cause.BROADCAST}
    assert found.bucket_join is None
    assert {s.kind for s in found.steps} == {StepKind.BROADCAST}


@pytest.mark.long
@pytest.mark.parametrize(
    ("partitions", "where", "cause"),
    [
        ("bucket(6, user_id)", "true", Cause.BUCKETS),
        pytest.param("bucket(5, user_id)", "true", Cause.BUCKETS, marks=pytest.mark.slow),
        ("", "true", Cause.UNBUCKETED),
        pytest.param("event_date", "true", Cause.UNBUCKETED, marks=pytest.mark.slow),
        ("bucket(4, user_id)", "false", Cause.EMPTY),
        pytest.param("bucket(4, request_id)", "true", Cause.NOT_A_KEY, marks=pytest.mark.slow),
        ("bucket(4, user_id), event_date", "true", Cause.NOT_A_KEY),
        ("bucket(4, user_id), truncate(2, request_id)", "true", Cause.TRANSFORMS),
    ],
)
def test_why_rows_move(tables: Tables, partitions: str, where: str, cause: Cause) -> None:
    spark = tables.spark
    name = f"t{abs(hash((partitions, where))) % 10**8}"
    left = spark.table(tables("plain", "bucket(4, user_id)"))
    right = spark.table(tables(name, partitions, where=where))
    if not partitions.endswith(", event_date"):
        right = right.drop("event_date")
    found = explain_join(left.drop("event_date"), right, KEYS, "left")
    assert cause in causes(found)
    reason = next(r for r in found.joins[0].reasons if r.cause is cause)
    text = shown(found)
    assert reason.text[:40] in text
    assert reason.fix[:40] in text


def test_a_changed_spec(tables: Tables) -> None:
    spark = tables.spark
    table = tables("changed", "bucket(4, user_id)")
    spark.sql(f"ALTER TABLE {table} REPLACE PARTITION FIELD user_id_bucket WITH bucket(8, user_id)")
    spark.table(tables("plain", "bucket(4, user_id)")).selectExpr(
        "user_id", "request_id", "event_date", "v_plain AS v_changed"
    ).writeTo(table).append()
    other = spark.table(tables("eight", "bucket(8, user_id)"))
    found = explain_join(spark.table(table).drop("event_date"), other.drop("event_date"))
    assert Cause.SPEC_CHANGED in causes(found)


def test_skew_is_told_and_blocks_nothing(tables: Tables) -> None:
    spark = tables.spark
    # Everything but a few rows is one user's.
    table = tables("skewed", "bucket(8, user_id)", rows=60)
    heavy = spark.range(200_000).selectExpr(
        "0L AS user_id", "id AS request_id", "date'2024-01-30' AS event_date", "xxhash64(id) AS v_skewed"
    )
    heavy.coalesce(1).writeTo(table).append()
    found = explain_join(spark.table(table), spark.table(tables("eight", "bucket(8, user_id)")))
    assert found.shuffle_free
    skewed = [r for r in found.joins[0].reasons if r.cause is Cause.SKEW]
    assert len(skewed) == 1
    assert "skewed" in skewed[0].text
    assert (found.joins[0].left.skew or 0) > 4


def test_queries(tables: Tables) -> None:
    spark = tables.spark
    a, b = spark.table(tables("a", DAILY)), spark.table(tables("b", DAILY))
    chain = a.join(b.hint("merge"), [*KEYS, "event_date"]).groupBy("request_id").count()
    found = explain_join(chain)
    assert not found.shuffle_free
    assert found.joins[0].shuffle_free
    assert "other parts of the query" in found.verdict
    local = spark.createDataFrame([(1, 2)], "user_id bigint, w bigint")
    mixed = explain_join(a.join(b.hint("merge"), [*KEYS, "event_date"]).join(local.hint("merge"), "user_id"))
    assert [j.shuffle_free for j in mixed.joins] == [True, False]
    assert Cause.NOT_ICEBERG in causes(mixed)
    assert mixed.joins[1].right.tables == ()
    assert explain_join(a).verdict == "The query joins nothing."
    assert "no Iceberg table" in shown(mixed)
    with pytest.raises(UsageError, match="no column in common"):
        explain_join(a, local.select("w"))
    with pytest.raises(UsageError, match="both sides have request_id, event_date, which are no join key"):
        explain_join(a, b, "user_id")
