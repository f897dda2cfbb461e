"""What a Spark session needs to know Iceberg tables and the catalog of some settings."""

from __future__ import annotations

from dedup_storage.config import CatalogType, Settings
from dedup_storage.lake.engine.sessions import SessionNeeds
from dedup_storage.lake.iceberg.catalog import spark_catalog_conf

__all__ = ["session_needs"]


def session_needs(settings: Settings) -> SessionNeeds:
    """Iceberg's extension and the catalog; in every session, whatever format the settings name.

    Where the tables are of another format and lie on a store, there may be no catalog: the embedded one needs a folder.
    """
    embedded = settings.catalog.type is CatalogType.SQLITE
    without = not settings.has_catalog and embedded and settings.local_warehouse is None
    return SessionNeeds(
        title="Iceberg",
        extensions=("org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",),
        catalog={} if without else spark_catalog_conf(settings),
    )
