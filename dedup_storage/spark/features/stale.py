"""What of a feature group is out of date: event dates and buckets whose inputs changed since they were read."""

from __future__ import annotations

from dedup_storage.layout import DatasetSpec
from dedup_storage.spark.features.window import Window
from dedup_storage.tables.changes import Cell, changed_cells, stored_cells
from dedup_storage.tables.features import FeatureGroup, grain_table
from dedup_storage.tables.metadata import DatasetMetadata

__all__ = ["overlaps_stored", "stale_window"]


def stale_window(meta: DatasetMetadata, spec: DatasetSpec, version: int, group: FeatureGroup) -> Window | None:
    """Rows to compute so that the group follows from a version; ``None`` when it does already.

    A changed row concerns the rows that look back on it: the days after it, as many as the look-back has. A new or
    removed row of the grain's own table concerns its own day in any case.
    """
    now = meta.snapshots(version)
    cells: set[Cell] = set()
    for part in group.coverage:
        for table, snapshot_id in part.snapshots.items():
            if table not in now:
                # A group that this one reads was dropped; computing says so by name.
                cells.add(Cell(None, None, None))
                continue
            changed = changed_cells(meta.tables[table], spec, snapshot_id, now[table])
            reach = Window(((part.start, part.end),)).cells()[0]
            for cell in changed:
                stretched = cell.stretched(group.lookback)
                if group.across_users:
                    stretched = Cell(stretched.low, stretched.high, None)
                if stretched.overlaps(reach):
                    cells.add(stretched)
    if not group.coverage:
        cells.add(Cell(None, None, None))
    return _existing(meta, spec, now[grain_table(spec, group.grain).name], group, cells) if cells else None


def _existing(
    meta: DatasetMetadata, spec: DatasetSpec, snapshot_id: int, group: FeatureGroup, cells: set[Cell]
) -> Window | None:
    """The window, cut off where neither the log nor the group has rows."""
    stored = stored_cells(meta.tables[grain_table(spec, group.grain).name], spec, snapshot_id)
    ends = [c.high for c in stored if c.high is not None]
    if ends and all(c.high is not None for c in stored):
        last = max(ends)
        cells = {
            Cell(c.low, min(c.high, last) if c.high is not None else None, c.bucket)
            if c.low is None or c.low <= last
            else c
            for c in cells
        }
    return Window.of(cells, spec)


def overlaps_stored(
    meta: DatasetMetadata, spec: DatasetSpec, group: FeatureGroup, version: int, window: Window
) -> bool:
    """Whether the group has rows inside the window's segments already."""
    stored = stored_cells(meta.tables[group.table], spec, meta.snapshots(version)[group.table])
    return any(a.overlaps(b) for a in window.cells() for b in stored)
