"""What a creation or an adoption of Iceberg tables left that was stopped before there was a dataset."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import SparkSession

from dedup_storage.errors import DatasetExistsError
from dedup_storage.lake.folders import delete_folder, list_files
from dedup_storage.lake.history import left_over
from dedup_storage.lake.iceberg.metadata import DROPPED, RENAMED, Lake, finish_adoption
from dedup_storage.lake.iceberg.tables import is_member, namespace_tables
from dedup_storage.lake.sql import quoted
from dedup_storage.layout import MADE_FOR_PROPERTY, DatasetSpec, TableRole

__all__ = ["clear_left", "clear_stopped", "foreign_table", "lies_at"]


def clear_left(spark: SparkSession, lake: Lake, spec: DatasetSpec, wanted: str) -> None:
    """Take away tables that a stopped creation of another description left: they would be taken for this one's. A
    dataset that is there stays.

    Args:
        spark, lake: Where the tables are.
        spec: The dataset that is to be made.
        wanted: What its tables are made for.

    Raises:
        DatasetExistsError: one of them has rows, or is a log that a stopped adoption moved, or is no dataset's.
        DatasetNotFoundError: a drop or a rename of the dataset was stopped; says how to finish it.
    """
    if lake.find(spec.name) is not None:
        return
    if any(lake.half_done(spec.name, what) is not None for what in (DROPPED, RENAMED)):
        raise lake.missing(spec.name)
    clear_stopped(spark, lake, spec)
    found = namespace_tables(lake.catalog, spec.name)
    for spec_table in spec.tables:
        if spec_table.name in found and not is_member(found[spec_table.name]):
            raise foreign_table(spec.name, spec_table.name)
    for name, table in found.items():
        if not is_member(table) or table.properties.get(MADE_FOR_PROPERTY) == wanted:
            continue
        if table.metadata.snapshots:
            raise left_over(spec.name, name)
        spark.sql(f"DROP TABLE IF EXISTS {quoted(lake.settings.catalog.name, spec.name, name)} PURGE")


def foreign_table(dataset: str, name: str) -> DatasetExistsError:
    """The error for a table that is no dataset's and has the place of one."""
    return DatasetExistsError(
        f"there is no dataset {dataset}, and under its name lies a table {name} that is no dataset's",
        fix="Choose another name, or drop the table if nobody needs it.",
    )


def lies_at(lake: Lake, dataset: str, place: str) -> str:
    """Where a table that is to be adopted lies: under its name, or where an adoption that was stopped moved it.

    Args:
        lake: The catalog.
        dataset: The dataset that it is to be.
        place: ``namespace.table``, as it is asked for.

    Raises:
        DatasetExistsError: it was moved, and there is a table of its old name again.
    """
    left = lake.half_adopted(dataset)
    if left is None or left["kind"] != "iceberg" or left["from"] != place:
        return place
    moved = f"{dataset}.{TableRole.LOGS.value}"
    if place != moved and lake.catalog.table_exists(tuple(place.split("."))):
        raise DatasetExistsError(
            f"an adoption of {place} was stopped when it had moved the table to {moved}, and there is a table {place} "
            "again",
            fix=f"Adopt the one that was moved (dedup-storage adopt {moved} --dataset {dataset}), or give it another "
            "name first.",
        )
    return moved


def clear_stopped(spark: SparkSession, lake: Lake, spec: DatasetSpec, place: str | None = None) -> Mapping[str, str]:
    """Take away the table that an adoption made which was stopped before there was a dataset; the files that it names
    are others' and stay. Gives the record of one that is gone on with.

    Args:
        spark, lake: Where the tables are.
        spec: The dataset, which is not there.
        place: Where the table lies that is to be adopted now, if one is.

    Raises:
        DatasetExistsError: the adoption moved a table, which is not the one asked for.
    """
    left = lake.half_adopted(spec.name)
    if left is None:
        return {}
    moved = f"{spec.name}.{TableRole.LOGS.value}"
    if left["kind"] == "iceberg":
        if place == moved:
            return left
        raise DatasetExistsError(
            f"there is no dataset {spec.name}, and under its name lies {moved}, which was the table {left['from']} "
            "before an adoption was stopped",
            fix=f"{finish_adoption(spec.name, left)} Or give the table its name back: ALTER TABLE {moved} RENAME TO "
            f"{left['from']}.",
        )
    table = lake.catalog.load_table((spec.name, TableRole.LOGS.value))
    location, store = table.location(), table.io.properties
    spark.sql(f"DROP TABLE {quoted(lake.settings.catalog.name, *moved.split('.'))}")
    if all("/metadata/" in file.path for file in list_files(location, store)):
        delete_folder(location, store)
    return {}
