"""Small Iceberg tables for the join tests: repeated keys, nulls in every key, one user with half of the rows."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.dataset.joins.plan import physical_plan
from dedup_storage.lake.engine.sessions import in_own_session
from tests.spark.helpers import multiset

__all__ = ["KEYS", "Tables", "exchanges", "plain_join", "same_as_plain"]

KEYS = ("user_id", "request_id")
_PLAIN = {
    "spark.sql.iceberg.planning.preserve-data-grouping": "false",
    "spark.sql.sources.v2.bucketing.enabled": "false",
    "spark.sql.autoBroadcastJoinThreshold": "-1",
}


@dataclass
class Tables:
    """Tables made when they are first asked for, all in one namespace."""

    spark: SparkSession
    catalog: str
    namespace: str = field(default_factory=lambda: f"j_{uuid.uuid4().hex[:12]}")
    made: set[str] = field(default_factory=set)

    def __call__(
        self, name: str, partitions: str, *, user: str = "bigint", where: str = "true", rows: int = 600
    ) -> str:
        """The table's name; rows as ``where`` selects them, the columns user_id, request_id, event_date, v_<name>."""
        table = f"{self.catalog}.{self.namespace}.{name}"
        if name in self.made:
            return table
        self.spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {self.catalog}.{self.namespace}")
        partitioned = f"PARTITIONED BY ({partitions})" if partitions else ""
        self.spark.sql(
            f"CREATE TABLE {table} (user_id {user}, request_id bigint, event_date date, v_{name} bigint) "
            f"USING iceberg {partitioned} TBLPROPERTIES ('format-version' = '3')"
        )
        text = "concat('usér ', u)" if user == "string" else "u"
        frame = self.spark.range(rows).selectExpr(
            "id",
            "CASE WHEN id % 53 = 0 THEN null WHEN id % 2 = 0 THEN 0 ELSE abs(xxhash64(id)) % 40 END AS u",
            "CASE WHEN id % 47 = 0 THEN null ELSE id DIV 6 END AS request_id",
            "date_add(date'2024-01-30', CAST((id DIV 6) % 4 AS int)) AS event_date",
        )
        frame = frame.selectExpr(f"CAST({text} AS {user}) AS user_id", "request_id", "event_date", f"id AS v_{name}")
        frame.where(where).writeTo(table).append()
        self.made.add(name)
        return table


def plain_join(left: DataFrame, right: DataFrame, on: tuple[str, ...], how: str) -> DataFrame:
    """The join as Spark does it when it knows nothing of buckets."""
    kind = {"semi": "left_semi", "anti": "left_anti"}.get(how, how)
    return in_own_session(left.join(right, list(on), kind), _PLAIN)


def same_as_plain(
    result: DataFrame, left: DataFrame, right: DataFrame, on: tuple[str, ...] = KEYS, how: str = "inner"
) -> None:
    """Assert that a join's rows are those of the plain join, and that there are any."""
    expected = plain_join(left, right, on, how)
    assert exchanges(expected) >= 2
    assert result.columns == expected.columns
    rows = multiset(expected)
    assert rows
    assert multiset(result) == rows


def exchanges(df: DataFrame) -> int:
    """Shuffles and broadcasts of a plan."""
    return sum(node.is_shuffle or node.is_broadcast for node in physical_plan(df).walk())
