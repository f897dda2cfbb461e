"""Opening a version of a dataset in the format of its tables: the one place here that knows which there are."""

from __future__ import annotations

from dedup_storage.config import Settings
from dedup_storage.reader.open.cut import Cut
from dedup_storage.reader.open.delta import delta_cut
from dedup_storage.reader.open.iceberg import iceberg_cut
from dedup_storage.schema import check_name

__all__ = ["open_cut"]


def open_cut(name: str, settings: Settings, version: int | None = None) -> Cut:
    """Find a dataset and the snapshots of one of its versions.

    Args:
        name: The dataset.
        settings: Where its catalog is.
        version: Version number; ``None`` takes the newest.

    Raises:
        DatasetNotFoundError: the catalog has no dataset of that name.
        VersionNotFoundError: the dataset has no such version.
        StorageError: the catalog cannot be read.
    """
    check_name(name, "dataset name")
    return (delta_cut if settings.format == "delta" else iceberg_cut)(name, settings, version)
