"""What of a feature group is out of date, as a window to compute."""

from __future__ import annotations

from dedup_storage.dataset.features.window import Window
from dedup_storage.dataset.handle import Cut
from dedup_storage.lake.groups import FeatureGroup
from dedup_storage.lake.outdated import looks_elsewhere, stale_cells

__all__ = ["overlaps_stored", "stale_lookups", "stale_window"]


def stale_window(cut: Cut, group: FeatureGroup, *, lookups: bool) -> Window | None:
    """The rows to compute so that a group follows from a version; ``None`` when it does.

    Args:
        cut: The version.
        group: The group.
        lookups: Whether it must follow from looked up tables as they are today, too.
    """
    state = cut.handle.tables.state if lookups else None
    cells = stale_cells(cut.meta, cut.spec, cut.version, group, state)
    return Window.of(cells, cut.spec) if cells else None


def stale_lookups(cut: Cut, group: FeatureGroup) -> bool:
    """Whether the table that a group looks up in has another state than when it was computed."""
    return looks_elsewhere(group, cut.handle.tables.state)


def overlaps_stored(cut: Cut, group: FeatureGroup, window: Window) -> bool:
    """Whether the group has rows inside the window already."""
    stored = cut.meta.stored_cells(group.table, cut.snapshots[group.table])
    return any(cell.overlaps(other) for cell in window.cells() for other in stored)
