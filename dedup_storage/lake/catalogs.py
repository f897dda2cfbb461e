"""What is known of datasets, and done to whole ones, without Spark, whatever the format of their tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dedup_storage.config import Settings
from dedup_storage.lake.delta.metadata import DeltaLake
from dedup_storage.lake.iceberg.metadata import Lake

if TYPE_CHECKING:
    from dedup_storage.lake.admin import Admin

__all__ = ["open_admin", "open_lake"]


def open_lake(settings: Settings) -> Lake | DeltaLake:
    """The catalog of a configuration, of the format it names."""
    return DeltaLake(settings) if settings.format == "delta" else Lake(settings)


def open_admin(settings: Settings) -> Admin[Any]:
    """What lists, describes, pins, drops and renames the datasets of a configuration."""
    if settings.format == "delta":
        from dedup_storage.lake.delta.admin import DeltaAdmin

        return DeltaAdmin(DeltaLake(settings))
    from dedup_storage.lake.iceberg.admin import IcebergAdmin

    return IcebergAdmin(Lake(settings))
