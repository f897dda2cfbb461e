"""What is known of datasets without Spark, whatever the format of their tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dedup_storage.config import Settings
from dedup_storage.lake.history import Catalog
from dedup_storage.lake.rooms import room_part

if TYPE_CHECKING:
    from dedup_storage.lake.admin import Admin

__all__ = ["open_admin", "open_lake"]


def open_lake(settings: Settings) -> Catalog:
    """The catalog of a configuration, of the format it names."""
    found: Catalog = room_part(settings.format, "metadata").open_lake(settings)
    return found


def open_admin(settings: Settings) -> Admin[Any]:
    """What lists, describes, pins, drops and renames the datasets of a configuration."""
    found: Admin[Any] = room_part(settings.format, "admin").open_admin(settings)
    return found
