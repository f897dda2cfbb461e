"""What a Spark session needs to know Iceberg tables and the catalog of some settings."""

from __future__ import annotations

from dedup_storage.config import Settings
from dedup_storage.lake.engine.sessions import SessionNeeds
from dedup_storage.lake.iceberg.catalog import spark_catalog_conf

__all__ = ["session_needs"]


def session_needs(settings: Settings) -> SessionNeeds:
    """Iceberg's extension and the catalog; in every session, whatever format the settings name."""
    return SessionNeeds(
        title="Iceberg",
        extensions=("org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",),
        catalog=spark_catalog_conf(settings),
    )
