"""What is known of datasets without Spark, whatever the format of their tables."""

from __future__ import annotations

from dedup_storage.config import Settings
from dedup_storage.lake.delta.metadata import DeltaLake
from dedup_storage.lake.iceberg.metadata import Lake

__all__ = ["open_lake"]


def open_lake(settings: Settings) -> Lake | DeltaLake:
    """The catalog of a configuration, of the format it names."""
    return DeltaLake(settings) if settings.format == "delta" else Lake(settings)
