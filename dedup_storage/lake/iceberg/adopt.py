"""Iceberg tables over a log that is there, and what a creation that was stopped left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyiceberg.transforms import BucketTransform, IdentityTransform
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import InputError
from dedup_storage.lake.history import left_over
from dedup_storage.lake.iceberg.metadata import DROPPED, EXPIRED_PREFIX, RENAMED, Lake
from dedup_storage.lake.iceberg.tables import member_tables
from dedup_storage.lake.publishing import version_facts
from dedup_storage.lake.runs import Run
from dedup_storage.lake.sql import listed, literal, located, quoted
from dedup_storage.layout import MADE_FOR_PROPERTY, ROLE_PROPERTY, SPEC_PROPERTY, DatasetSpec, version_tag
from dedup_storage.schema import DateGrain, LogSchema

if TYPE_CHECKING:
    from pyiceberg.table import Table

__all__ = ["adopt_table", "clear_left", "describe_adopted", "table_partitions"]


def table_partitions(table: Table, place: str, schema: LogSchema) -> tuple[DateGrain, int]:
    """Date grain and user buckets of a table's partitions.

    Raises:
        InputError: it is partitioned by something else, or has rows that delete files hide.
    """
    grain, buckets = DateGrain.NONE, 1
    names = table.schema()
    for part in table.spec().fields:
        source = names.find_column_name(part.source_id)
        if isinstance(part.transform, IdentityTransform) and source == "event_date":
            grain = DateGrain.DAY
        elif isinstance(part.transform, BucketTransform) and source == schema.user:
            buckets = part.transform.num_buckets
        else:
            raise InputError(
                f"the table {place} is partitioned by {part.transform}({source})",
                expected="event_date, buckets of the user, or no partitions",
                fix="Write it into a dataset: dedup-storage write.",
            )
    return grain, buckets


def _name(settings: Settings, spec: DatasetSpec) -> str:
    return quoted(settings.catalog.name, spec.name, spec.anchor.name)


def adopt_table(
    spark: SparkSession, settings: Settings, spec: DatasetSpec, kind: str, place: str, columns: Mapping[str, str]
) -> None:
    """Give the dataset a table of the log's files: the table itself under a new name, or a new one that names them."""
    name, catalog = _name(settings, spec), settings.catalog.name
    if kind == "iceberg":
        spark.sql(f"ALTER TABLE {quoted(catalog, *place.split('.'))} RENAME TO `{spec.name}`.`{spec.anchor.name}`")
    else:
        fields = ", ".join(f"{quoted(c)} {kind_}" for c, kind_ in columns.items())
        where = located(Lake(settings).place_of_new(spec.name, spec.anchor.name))
        spark.sql(f"CREATE TABLE {name} ({fields}) USING iceberg{where} TBLPROPERTIES ('format-version' = '2')")
        folder = literal(f"`parquet`.`{place.replace('`', '``')}`")
        target = f"{spec.name}.{spec.anchor.name}"
        procedure = f"{quoted(catalog)}.system.add_files"
        spark.sql(f"CALL {procedure}(table => '{target}', source_table => '{folder}')")
    properties = {
        ROLE_PROPERTY: spec.anchor.role.value,
        "write.wap.enabled": "true",
        "commit.retry.num-retries": "20",
        "commit.retry.min-wait-ms": "50",
        "write.parquet.compression-codec": "zstd",
    }
    _set(spark, name, properties)


def describe_adopted(spark: SparkSession, settings: Settings, spec: DatasetSpec, run: Run, created_ms: int) -> None:
    """Say what the table is, last: from here on there is a dataset."""
    facts = {**version_facts(run), "parent": "0", "created-ms": str(created_ms)}
    _set(
        spark,
        _name(settings, spec),
        {EXPIRED_PREFIX + version_tag(1): json.dumps(facts), SPEC_PROPERTY: spec.to_json()},
    )


def _set(spark: SparkSession, name: str, properties: Mapping[str, str]) -> None:
    spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ({listed(properties)})")


def clear_left(spark: SparkSession, lake: Lake, spec: DatasetSpec, wanted: str) -> None:
    """Take away tables that a stopped creation of another description left: they would be taken for this one's. A
    dataset that is there stays.

    Args:
        spark, lake: Where the tables are.
        spec: The dataset that is to be made.
        wanted: What its tables are made for.

    Raises:
        DatasetExistsError: one of them has rows.
        DatasetNotFoundError: a drop or a rename of the dataset was stopped; says how to finish it.
    """
    if lake.find(spec.name) is not None:
        return
    if any(lake.half_done(spec.name, what) is not None for what in (DROPPED, RENAMED)):
        raise lake.missing(spec.name)
    for name, table in member_tables(lake.catalog, spec.name).items():
        if table.properties.get(MADE_FOR_PROPERTY) == wanted:
            continue
        if table.metadata.snapshots:
            raise left_over(spec.name, name)
        spark.sql(f"DROP TABLE IF EXISTS {quoted(lake.settings.catalog.name, spec.name, name)} PURGE")
