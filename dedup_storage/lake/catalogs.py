"""What is known of datasets, and done to whole ones, without Spark, whatever the format of their tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dedup_storage.config import Settings

if TYPE_CHECKING:
    from dedup_storage.lake.admin import Admin
    from dedup_storage.lake.delta.metadata import DeltaLake
    from dedup_storage.lake.iceberg.metadata import Lake

__all__ = ["open_admin", "open_lake"]


def open_lake(settings: Settings) -> Lake | DeltaLake:
    """The catalog of a configuration, of the format it names."""
    # Lists and descriptions answer in about a second: each format brings libraries that the other does not need.
    if settings.format == "delta":
        from dedup_storage.lake.delta.metadata import DeltaLake

        return DeltaLake(settings)
    from dedup_storage.lake.iceberg.metadata import Lake

    return Lake(settings)


def open_admin(settings: Settings) -> Admin[Any]:
    """What lists, describes, pins, drops and renames the datasets of a configuration."""
    if settings.format == "delta":
        from dedup_storage.lake.delta.admin import DeltaAdmin
        from dedup_storage.lake.delta.metadata import DeltaLake

        return DeltaAdmin(DeltaLake(settings))
    from dedup_storage.lake.iceberg.admin import IcebergAdmin
    from dedup_storage.lake.iceberg.metadata import Lake

    return IcebergAdmin(Lake(settings))
