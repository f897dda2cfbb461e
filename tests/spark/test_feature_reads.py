"""How columns of feature groups come beside rows: as plain left joins give them, wide rows written anew but once."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.features.read import attach
from dedup_storage.dataset.joins.plan import Node, physical_plan
from dedup_storage.lake.groups import FeatureColumn, FeatureGroup, FeatureSource, SourceKind
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.schema import DateGrain, Grain
from tests.spark.helpers import flat_schema, multiset
from tests.spark.test_features import make

TYPES = {
    "whole": "bigint", "text": "string", "number": "decimal(12,3)", "moment": "timestamp", "flag": "boolean",
    "list": "array<string>", "pairs": "map<string,int>", "both": "struct<a:int,b:array<double>>",
}  # fmt: skip


def spec_of(grain: DateGrain) -> DatasetSpec:
    columns = {"user_id": "bigint", "request_id": "bigint", "position": "int", "hist": "array<bigint>"}
    return DatasetSpec(
        name="d", schema=flat_schema(), layout=Layout.FLAT, date_grain=grain, buckets=4, event_date_column="event_date",
        source_columns=tuple(columns), source_types=tuple(columns.values()), position_column="position",
    )  # fmt: skip


def group_of(name: str, grain: Grain, kind: str) -> FeatureGroup:
    columns = (FeatureColumn(name=name, type=kind),)
    return FeatureGroup(
        name=name, table=f"fg_{name}", grain=grain, columns=columns, source=FeatureSource(kind=SourceKind.FRAME)
    )


def plainly(
    rows: DataFrame, groups: list[FeatureGroup], tables: list[DataFrame], on: dict[str, list[str]]
) -> DataFrame:
    for group, table in zip(groups, tables, strict=True):
        rows = rows.join(table.select(*on[group.name], *group.names), on[group.name], "left")
    return rows


@pytest.mark.parametrize("grain", [DateGrain.DAY, DateGrain.NONE])
def test_columns_are_those_of_plain_left_joins(spark: SparkSession, grain: DateGrain) -> None:
    """Of every type and both grains: keys that are missing, null, or there twice; values that are null."""
    spec = spec_of(grain)
    rows = spark.range(30).selectExpr(
        "if(id = 7, null, id div 6) user_id", "id div 3 request_id", "cast(id % 3 as int) position",
        "if(id div 3 = 5, null, date_add(date'2024-01-01', cast(id div 6 as int))) event_date",
        "transform(sequence(1, id % 3 + 1), x -> x * id) hist",
    )  # fmt: skip
    # An adopted log may hold a row twice.
    rows = rows.unionByName(rows.filter("request_id = 2 and position = 1"))
    values = {
        "whole": "request_id * 2", "text": "concat('t', request_id)", "number": "cast(request_id / 3 as decimal(12,3))",
        "moment": "cast(event_date as timestamp)", "flag": "request_id % 2 = 0",
        "list": "array(cast(request_id as string), null)", "pairs": "map('k', cast(request_id as int))",
        "both": "struct(cast(request_id as int) a, array(0.5D, null) b)",
    }  # fmt: skip
    groups = [
        group_of(n, Grain.REQUEST if i % 2 else Grain.IMPRESSION, kind) for i, (n, kind) in enumerate(TYPES.items())
    ]
    tables, on = [], {}
    for number, group in enumerate(groups):
        on[group.name] = [*group.key(spec), *(["event_date"] if grain is DateGrain.DAY else [])]
        value = F.when(F.col("request_id") % 4 != 1, F.expr(values[group.name]).cast(TYPES[group.name]))
        found = rows.filter(f"request_id % 5 != {number % 5}").select("*", value.alias(group.name))
        own = dict.fromkeys((*group.key(spec), "event_date", group.name))
        tables.append(found.dropDuplicates([*group.key(spec), "event_date"]).select(*own))
    found = attach(spec, rows, [((group,), table) for group, table in zip(groups, tables, strict=True)])
    wanted = plainly(rows, groups, tables, on)
    assert found.columns == [*rows.columns, *TYPES]
    assert [f.dataType for f in found.schema] == [f.dataType for f in wanted.select(*found.columns).schema]
    assert multiset(found) == multiset(wanted.select(*found.columns))
    # Lists stand above two joins, one for each grain, however many groups there are.
    joins = [node for node in physical_plan(found).walk() if node.is_join]
    assert sum("hist" in outputs(node.children[0]) for node in joins) == 2
    assert len(joins) == len(groups) + 2


def outputs(node: Node) -> list[str]:
    attributes = node.java.output()
    return [str(attributes.apply(i).name()) for i in range(attributes.size())]


@pytest.mark.long
def test_a_read_of_groups_sorts_rows_once_and_moves_none(spark: SparkSession, settings: Settings) -> None:
    ds = make(spark, settings, [1, 2])
    for name in ("one", "two", "three"):
        ds.features.add(name, {name: f"size(hist) + length('{name}')"}, gate=False)
    for name in ("four", "five"):
        ds.features.add(name, {name: f"size(hist) * item + length('{name}')"}, grain="impression", gate=False)
    wanted = ds.logs(features=())
    for name in ("one", "two", "three"):
        wanted = wanted.withColumn(name, F.expr(f"size(hist) + length('{name}')"))
    for name in ("four", "five"):
        wanted = wanted.withColumn(name, F.expr(f"size(hist) * item + length('{name}')"))
    assert multiset(ds.logs().select(*wanted.columns)) == multiset(wanted)
    plans = {"requests": ds.requests(), "impressions": ds.impressions(), "logs": ds.logs()}
    nodes = {name: list(physical_plan(frame).walk()) for name, frame in plans.items()}
    assert not any(node.is_shuffle or node.is_broadcast for listed in nodes.values() for node in listed)
    # Of the tables' own rows: each side of each join but those that a join below has left in order.
    sorts = {name: sum(node.is_sort for node in listed) for name, listed in nodes.items()}
    assert sorts == {"requests": 5, "impressions": 3, "logs": 8}
    wide = [node for node in nodes["requests"] if node.is_join and "hist" in outputs(node.children[0])]
    assert len(wide) == 1
