"""Iceberg tables over a log that is there."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyiceberg.transforms import BucketTransform, IdentityTransform
from pyspark.sql import SparkSession

from dedup_storage.errors import ConflictError, InputError
from dedup_storage.faults import reached
from dedup_storage.lake.engine.atomic import AtomicChange
from dedup_storage.lake.iceberg.branch import change_again
from dedup_storage.lake.iceberg.expire import version_named
from dedup_storage.lake.iceberg.left import clear_stopped, foreign_table
from dedup_storage.lake.iceberg.metadata import ADOPTED, DROPPED, EXPIRED_PREFIX, RENAMED, Lake
from dedup_storage.lake.iceberg.snapshots import tags
from dedup_storage.lake.iceberg.tables import is_member
from dedup_storage.lake.publishing import version_facts
from dedup_storage.lake.runs import Run
from dedup_storage.lake.sql import listed, literal, located, quoted
from dedup_storage.layout import PROPERTY_PREFIX, ROLE_PROPERTY, SPEC_PROPERTY, DatasetSpec, version_tag
from dedup_storage.schema import DateGrain, LogSchema

if TYPE_CHECKING:
    from pyiceberg.table import Table

__all__ = ["adopt_log", "table_partitions"]


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


def adopt_log(
    spark: SparkSession, lake: Lake, spec: DatasetSpec, kind: str, place: str, columns: Mapping[str, str], run: Run
) -> None:
    """Make a log that is there version 1 of a dataset: its table under a new name, or a new one that names its files.

    The table says first what it is adopted from, so that what a stopped adoption left is known as such; version 1 and
    the description come last, in one commit.

    Args:
        spark, lake: Where the table is to be.
        spec: The dataset.
        kind: ``iceberg`` or ``parquet``.
        place: ``namespace.table``, or the log's folder.
        columns: Column -> type.
        run: The adoption.

    Raises:
        DatasetExistsError: another table has the place of the dataset's.
        InputError: the log holds no rows, or is a table of a dataset that is there.
        ConflictError: another process adopts a log, or creates a dataset, under the same name.
    """
    settings, target = lake.settings, f"{spec.name}.{spec.anchor.name}"
    stopped = clear_stopped(spark, lake, spec, place)
    record = {"kind": kind, "from": stopped.get("from", place), "to": spec.name, "attempt": _attempt(run)}
    mark = json.dumps(record)
    if place != target and lake.catalog.table_exists((spec.name, spec.anchor.name)):
        raise foreign_table(spec.name, spec.anchor.name)
    if kind == "iceberg":
        _mark(spark, lake, place, mark)
        reached("adopt:marked")
        if place != target:
            old = quoted(settings.catalog.name, *place.split("."))
            spark.sql(f"ALTER TABLE {old} RENAME TO `{spec.name}`.`{spec.anchor.name}`")
        reached("adopt:moved")
    else:
        _name_files(spark, lake, spec, place, columns, mark)
    snapshot = lake.catalog.load_table((spec.name, spec.anchor.name)).current_snapshot()
    if snapshot is None:
        raise _empty(place)
    facts = {**version_facts(run), "parent": "0", "created-ms": str(snapshot.timestamp_ms)}
    properties = {
        ROLE_PROPERTY: spec.anchor.role.value,
        "write.wap.enabled": "true",
        "commit.retry.num-retries": "20",
        "commit.retry.min-wait-ms": "50",
        "write.parquet.compression-codec": "zstd",
        EXPIRED_PREFIX + version_tag(1): json.dumps(facts),
        SPEC_PROPERTY: spec.to_json(),
    }

    def describe(change: AtomicChange) -> None:
        if change.property(ADOPTED) != mark:
            raise _overtaken(spec)
        # There already where the catalog did not answer.
        if change.property(SPEC_PROPERTY) is None:
            change.tag(version_tag(1), snapshot.snapshot_id)
            for key, value in properties.items():
                change.set_property(key, value)

    change_again(spark, settings, spec.name, spec.anchor.name, describe)


def _attempt(run: Run) -> str:
    return f"{run.attempt}/{uuid.uuid4().hex[:12]}"


def _mark(spark: SparkSession, lake: Lake, place: str, mark: str) -> None:
    """Say in a table what is to become of it; what it has of a dataset that it was before goes.

    Raises:
        InputError: it holds no rows, is a table of a dataset that is there, or has tags that versions have.
    """
    namespace, _, name = place.partition(".")
    found = lake.find(namespace)
    if found is not None and name in found.tables:
        raise InputError(
            f"{place} is a table of the dataset {namespace}",
            fix="Convert the dataset (dedup-storage convert), or name another table.",
        )
    if any(lake.half_done(namespace, what) is not None for what in (DROPPED, RENAMED)):
        raise lake.missing(namespace)
    table = lake.catalog.load_table((namespace, name))
    if table.current_snapshot() is None:
        raise _empty(place)
    own = sorted(tag for tag in tags(table) if version_named(tag) is not None)
    was_a_dataset = is_member(table)
    if own and not was_a_dataset:
        raise InputError(
            f"the table {place} has names that versions have: {', '.join(own)}",
            expected="no tag or branch like v1, claim-v1 or pin-v1-name",
            fix=f"Give it another name first; such as: ALTER TABLE {place} DROP TAG {own[0]}.",
        )

    def change(change: AtomicChange) -> None:
        for key in change.properties():
            if key.startswith(PROPERTY_PREFIX) and key != ADOPTED:
                change.set_property(key, None)
        for tag in change.refs():
            if was_a_dataset and version_named(tag) is not None:
                change.untag(tag)
        change.set_property(ADOPTED, mark)

    change_again(spark, lake.settings, namespace, name, change)


def _name_files(
    spark: SparkSession, lake: Lake, spec: DatasetSpec, place: str, columns: Mapping[str, str], mark: str
) -> None:
    """Make a table that names the Parquet files of a folder."""
    catalog, fields = lake.settings.catalog.name, ", ".join(f"{quoted(c)} {kind}" for c, kind in columns.items())
    where = located(lake.place_of_new(spec.name, spec.anchor.name))
    properties = listed({"format-version": "2", ADOPTED: mark})
    name = quoted(catalog, spec.name, spec.anchor.name)
    spark.sql(f"CREATE TABLE {name} ({fields}) USING iceberg{where} TBLPROPERTIES ({properties})")
    reached("adopt:created")
    folder, target = literal(f"`parquet`.`{place.replace('`', '``')}`"), f"{spec.name}.{spec.anchor.name}"
    spark.sql(f"CALL {quoted(catalog)}.system.add_files(table => '{target}', source_table => '{folder}')")
    reached("adopt:filled")


def _empty(place: str) -> InputError:
    return InputError(f"the log {place} holds no rows")


def _overtaken(spec: DatasetSpec) -> ConflictError:
    return ConflictError(
        f"another process made a dataset {spec.name} in the same moment",
        fix="See what it is: dedup-storage datasets list. Choose another name.",
    )
