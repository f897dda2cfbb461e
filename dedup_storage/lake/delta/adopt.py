"""Adoption of a log as a Delta table that names its files where they lie; what a stopped one left is taken away.

Whoever adopts decides version 1 first. So what lies in a dataset's folder without a dataset tells whose it is.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping

from pyspark.sql import SparkSession

from dedup_storage.errors import ConflictError, DatasetExistsError
from dedup_storage.faults import reached
from dedup_storage.lake.delta.abandon import APP
from dedup_storage.lake.delta.files import live_files, parquet_actions
from dedup_storage.lake.delta.layout import file_properties
from dedup_storage.lake.delta.log import TableLog
from dedup_storage.lake.delta.metadata import DeltaLake
from dedup_storage.lake.delta.versions import VERSIONS_TABLE, VersionLog
from dedup_storage.lake.folders import delete_folder, list_files
from dedup_storage.lake.history import left_over
from dedup_storage.lake.publishing import version_facts
from dedup_storage.lake.runs import Run
from dedup_storage.lake.sql import listed, quoted
from dedup_storage.layout import MADE_FOR_PROPERTY, ROLE_PROPERTY, SPEC_PROPERTY, DatasetSpec, TableRole

__all__ = ["adopt_log", "clear_left", "clear_stopped"]


def adopt_log(
    spark: SparkSession,
    lake: DeltaLake,
    spec: DatasetSpec,
    kind: str,
    place: str,
    columns: Mapping[str, str],
    run: Run,
) -> None:
    """Make a log that is there version 1 of a dataset: a table that names its files where they lie.

    Args:
        spark, lake: Where the table is to be.
        spec: The dataset.
        kind: ``delta`` or ``parquet``.
        place: The log's folder.
        columns: Column -> type.
        run: The adoption.

    Raises:
        DatasetExistsError: the dataset's folder holds something else.
        ConflictError: another process adopts a log, or creates a dataset, under the same name.
    """
    clear_stopped(lake, spec)
    log, uri = lake.log(spec.name), lake.uri(spec.name, spec.anchor.name)
    if lake.find(spec.name) is not None:
        raise _overtaken(spec)
    if lake.is_table(uri):
        raise _taken(spec, f"a table {spec.anchor.name} that is no dataset's")
    log.create()
    attempt = f"{run.attempt}/{uuid.uuid4().hex[:12]}"
    facts = {**version_facts(run), "staged-tables": "", "parent": "0"}
    if not log.claim(1, {**facts, "attempt": attempt}):
        raise _overtaken(spec)
    reached("adopt:claimed")
    name = f"delta.`{uri.replace('`', '``')}`"
    if kind == "parquet":
        fields = ", ".join(f"{quoted(c)} {columns[c]}" for c in spec.source_columns)
        spark.sql(f"CREATE TABLE {name} ({fields}) USING delta")
        TableLog(spark, uri).commit(parquet_actions(place, lake.settings.catalog.properties), APP, 1)
    else:
        spark.sql(f"CREATE TABLE {name} SHALLOW CLONE delta.`{place.replace('`', '``')}`")
    properties = {**file_properties(spec, spec.anchor), ROLE_PROPERTY: spec.anchor.role.value}
    # Named again, it would have Delta rewrite every file.
    del properties["delta.columnMapping.mode"]
    _set(spark, name, properties)
    _publish(lake, spec, log, attempt)
    reached("adopt:published")
    # Last: from here on there is a dataset.
    _set(spark, name, {SPEC_PROPERTY: spec.to_json()})


def _publish(lake: DeltaLake, spec: DatasetSpec, log: VersionLog, attempt: str) -> None:
    """Complete version 1, if it is still this adoption's: another one may have taken it for stopped."""
    if log.load().claims.get(1, {}).get("attempt") != attempt:
        raise _overtaken(spec)
    anchor = spec.anchor.name
    ref = lake.ref(spec.name, anchor)
    number = ref.load().version()
    log.publish(1, {"snapshots": {anchor: number}, "rows": {anchor: live_files(ref, number).rows}})


def _set(spark: SparkSession, name: str, properties: Mapping[str, str]) -> None:
    spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ({listed(properties)})")


def clear_stopped(lake: DeltaLake, spec: DatasetSpec) -> None:
    """Take away what an adoption left that was stopped before there was a dataset: a table's log, and events. A dataset
    that is there stays.

    Raises:
        DatasetExistsError: the table has files in its own folder.
        DatasetNotFoundError: a drop of the dataset was stopped; says how to finish it.
    """
    root, store = lake.uri(spec.name), lake.settings.catalog.properties
    if not lake.is_table(f"{root}/{VERSIONS_TABLE}") or lake.find(spec.name) is not None:
        return
    events = lake.log(spec.name).load()
    if events.dropped is not None:
        raise lake.missing(spec.name)
    if {number: facts.get("job") for number, facts in events.claims.items()} != {1: "adopt"}:
        return
    # An adopted log's table is the flat one, whatever is made under the name now.
    adopted = f"{root}/{TableRole.LOGS.value}"
    own = [f.base_name for f in list_files(adopted, store) if "/_delta_log/" not in f.path]
    if own:
        raise _taken(spec, f"a table {TableRole.LOGS.value} with files of its own ({own[0]})")
    delete_folder(adopted, store)
    # The events last: until they are gone, this can be finished.
    delete_folder(f"{root}/{VERSIONS_TABLE}", store)


def clear_left(lake: DeltaLake, spec: DatasetSpec, tables: Iterable[str], wanted: str) -> None:
    """Take away tables that a stopped creation of another description left: they would be taken for this one's.

    Args:
        lake, spec: The dataset, which is not there.
        tables: Tables in its folder.
        wanted: What the tables are made for now.

    Raises:
        DatasetExistsError: one of them has rows.
    """
    for name in tables:
        ref = lake.ref(spec.name, name)
        if ROLE_PROPERTY not in ref.properties or ref.properties.get(MADE_FOR_PROPERTY) == wanted:
            continue
        if live_files(ref).paths:
            raise left_over(spec.name, name)
        delete_folder(ref.uri, lake.settings.catalog.properties)


def _taken(spec: DatasetSpec, what: str) -> DatasetExistsError:
    return DatasetExistsError(
        f"there is no dataset {spec.name}, and its folder holds {what}",
        fix="Choose another name, or remove the folder if nobody needs it.",
    )


def _overtaken(spec: DatasetSpec) -> ConflictError:
    return ConflictError(
        f"another process made a dataset {spec.name} in the same moment",
        fix="See what it is: dedup-storage datasets list. Choose another name.",
    )
