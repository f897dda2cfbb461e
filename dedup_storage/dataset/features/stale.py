"""What of a feature group is out of date, as a window to compute."""

from __future__ import annotations

from collections.abc import Callable

from dedup_storage.dataset.features.window import Window
from dedup_storage.lake.groups import FeatureGroup, stale_cells
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.layout import DatasetSpec

__all__ = ["overlaps_stored", "stale_window"]


def stale_window(
    meta: DatasetMetadata,
    spec: DatasetSpec,
    version: int,
    group: FeatureGroup,
    state: Callable[[str], int | None] | None = None,
) -> Window | None:
    """Rows to compute so that the group follows from a version and today's looked up tables; ``None`` when it does."""
    cells = stale_cells(meta, spec, version, group, state)
    return Window.of(cells, spec) if cells else None


def overlaps_stored(
    meta: DatasetMetadata, spec: DatasetSpec, group: FeatureGroup, version: int, window: Window
) -> bool:
    """Whether the group has rows inside the window already."""
    stored = meta.stored_cells(group.table, meta.snapshots(version)[group.table])
    return any(a.overlaps(b) for a in window.cells() for b in stored)
