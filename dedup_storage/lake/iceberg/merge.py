"""Merge-on-read: Spark's MERGE into a branch, which hides rows by deletion vectors and writes their new values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyspark.sql import DataFrame
from pyspark.sql.types import MapType

from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.iceberg.files import segments_sql
from dedup_storage.lake.segments import Segment
from dedup_storage.lake.sql import quoted
from dedup_storage.layout import DatasetSpec

__all__ = ["merge_into"]

_SOURCE = "_backfill_source"


def merge_into(
    identifier: str,
    spec: DatasetSpec,
    catalog: str,
    values: DataFrame,
    keys: Iterable[str],
    changed: Mapping[str, str],
    segments: Iterable[Segment],
    properties: Mapping[str, str],
) -> None:
    """Give rows new values.

    Args:
        identifier: Table and branch, quoted.
        spec: The dataset.
        catalog: Catalog name.
        values: Keys and new values.
        keys: Key columns.
        changed: Column of the table -> column of ``values``.
        segments: Where the rows lie.
        properties: Of the snapshot.
    """
    session = run_session(values.sparkSession)
    for key, value in properties.items():
        session.conf.set(f"spark.sql.iceberg.snapshot-property.{key}", value)
    move_to(session, values).createOrReplaceTempView(_SOURCE)
    on = " AND ".join(f"t.{quoted(k)} = s.{quoted(k)}" for k in keys)
    inside = segments_sql(spec, catalog, segments, alias="t")
    types = values.schema
    # A row that has its new value already is left alone. Maps cannot be compared.
    changes = [
        "TRUE" if isinstance(types[new].dataType, MapType) else f"NOT (t.{quoted(c)} <=> s.{quoted(new)})"
        for c, new in changed.items()
    ]
    updates = ", ".join(f"t.{quoted(c)} = s.{quoted(new)}" for c, new in changed.items())
    session.sql(
        f"MERGE INTO {identifier} AS t USING {_SOURCE} AS s ON {on} AND {inside} "
        f"WHEN MATCHED AND ({' OR '.join(changes)}) THEN UPDATE SET {updates}"
    )
    session.catalog.dropTempView(_SOURCE)
