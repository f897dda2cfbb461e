"""What is known of datasets without Spark, whatever the format of their tables."""

from __future__ import annotations

from dedup_storage.config import Settings
from dedup_storage.lake.history import Catalog
from dedup_storage.lake.rooms import room_part

__all__ = ["open_lake"]


def open_lake(settings: Settings) -> Catalog:
    """The catalog of a configuration, of the format it names."""
    found: Catalog = room_part(settings.format, "metadata").open_lake(settings)
    return found
