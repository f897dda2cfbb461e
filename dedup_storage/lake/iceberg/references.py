"""Whether a catalog keeps what versions are made of: snapshots that no branch names, and tags.

Every catalog but a REST server leaves a table's metadata to its clients, so it keeps whatever they write. A server
writes it itself, and some keep no tags, or only the newest snapshot of a table. There each write would end as if
somebody had changed the tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedup_storage.config import CatalogType, Settings
from dedup_storage.errors import ConfigError
from dedup_storage.lake.engine.iceberg import load_table
from dedup_storage.lake.iceberg.scratch import scratch_table
from dedup_storage.lake.iceberg.snapshots import snapshot_summary, tags
from dedup_storage.lake.sql import quoted
from dedup_storage.layout import PROPERTY_PREFIX
from dedup_storage.spark.errors import JAVA_ERRORS, is_trouble, root_message

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyspark.sql import SparkSession

__all__ = ["KEEP_REMEDY", "begin_namespace", "lost_reference"]

KEEP_REMEDY = (
    "Use a catalog that keeps a table's tags and staged snapshots: sqlite, jdbc, hive, glue, or a REST server that "
    "keeps them."
)
_MARK = PROPERTY_PREFIX + "probe"
# Catalogs that were found to keep both: asked once a process.
_PROVEN: set[tuple[str, str | None, str]] = set()


def lost_reference(spark: SparkSession, settings: Settings, catalog: Catalog, place: tuple[str, str]) -> str | None:
    """What a catalog does not keep of a table, to follow its name in a sentence; ``None`` where it keeps everything.

    Args:
        spark, settings, catalog: The catalog, as both clients see it.
        place: Namespace and name of a table that may be changed: two staged snapshots and a tag are left in it.
    """
    full = ".".join((settings.catalog.name, *place))
    load_table(spark, full).mark({_MARK: "1"})
    first = next(
        (s.snapshot_id for s in catalog.load_table(place).metadata.snapshots if _MARK in snapshot_summary(s)), None
    )
    if first is None:
        return "keeps no snapshot that is staged, which no branch names"
    try:
        load_table(spark, full).create_tag("probe", first)
    except JAVA_ERRORS as error:
        if is_trouble(error):
            raise
        return f"refuses tags: {root_message(error)}"
    if tags(catalog.load_table(place)).get("probe") != first:
        return "keeps no tags"
    load_table(spark, full).mark({_MARK: "2"})
    table = catalog.load_table(place)
    if tags(table).get("probe") != first or table.snapshot_by_id(first) is None:
        return "keeps only a table's newest snapshot"
    return None


def begin_namespace(spark: SparkSession, settings: Settings, catalog: Catalog, dataset: str) -> None:
    """Make a dataset's namespace, in a catalog that keeps what versions are made of.

    Args:
        spark, settings, catalog: The catalog, as both clients see it.
        dataset: The namespace.

    Raises:
        ConfigError: says what the catalog does not keep; a namespace that was not there is gone again.
    """
    there = catalog.namespace_exists((dataset,))
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {quoted(settings.catalog.name, dataset)}")
    try:
        _require_references(spark, settings, catalog, dataset)
    except ConfigError:
        if not there:
            spark.sql(f"DROP NAMESPACE IF EXISTS {quoted(settings.catalog.name, dataset)}")
        raise


def _require_references(spark: SparkSession, settings: Settings, catalog: Catalog, dataset: str) -> None:
    known = (settings.catalog.name, settings.catalog.uri, settings.warehouse)
    if settings.catalog.type is not CatalogType.REST or known in _PROVEN:
        return
    with scratch_table(spark, settings, dataset, "TBLPROPERTIES ('format-version' = '3')") as name:
        lost = lost_reference(spark, settings, catalog, (dataset, name))
    if lost is not None:
        raise ConfigError(
            f"the catalog {settings.catalog.name} ({settings.catalog.type.value}, {settings.catalog.uri}) {lost}, and "
            f"versions are made of tags and staged snapshots, so no dataset can be created there",
            fix=f"{KEEP_REMEDY} What else this catalog can do: dedup-storage doctor.",
        )
    _PROVEN.add(known)
