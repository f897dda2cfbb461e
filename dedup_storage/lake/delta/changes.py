"""Which segments of a Delta table differ between two of its versions, from the log alone: no data file is opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dedup_storage.lake.cells import Cell, whole_month
from dedup_storage.lake.delta.files import LiveFiles, live_files
from dedup_storage.lake.delta.layout import bucket_column, partition_columns
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.layout import DatasetSpec
from dedup_storage.schema import DateGrain

__all__ = ["delta_changed_cells", "delta_stored_cells", "files_without", "of_today"]


def delta_changed_cells(ref: DeltaRef, spec: DatasetSpec, old: int | None, new: int) -> set[Cell]:
    """What changed between two versions of one of a dataset's tables: where files came or went.

    Args:
        ref: The table.
        spec: The dataset.
        old: Earlier Delta version; ``None`` for an empty table.
        new: Later Delta version.
    """
    if old == new:
        return set()
    after = live_files(ref, new)
    if old is None:
        return of_today(ref, spec, new, _cells(after, spec))
    before = live_files(ref, old)
    gone, come = files_without(before, after), files_without(after, before)
    return of_today(ref, spec, old, _cells(gone, spec)) | of_today(ref, spec, new, _cells(come, spec))


def delta_stored_cells(ref: DeltaRef, spec: DatasetSpec, version: int) -> set[Cell]:
    """Where a version has rows."""
    return of_today(ref, spec, version, _cells(live_files(ref, version), spec))


def of_today(ref: DeltaRef, spec: DatasetSpec, version: int, cells: Iterable[Cell]) -> set[Cell]:
    """Cells of a Delta version whose numbers of buckets are those of a description; where it has another count of
    buckets, in all of them."""
    there = ref.buckets(bucket_column(spec), version)
    return {cell.of_all_buckets for cell in cells} if there not in (None, spec.buckets) else set(cells)


def files_without(files: LiveFiles, others: LiveFiles) -> LiveFiles:
    """Those of some files that are not among others."""
    if not files.table.num_rows:
        return files
    known = pa.array(others.paths, pa.string())
    return files.where(pc.invert(pc.is_in(files.table["path"].combine_chunks().cast(pa.string()), known)))


def _cells(files: LiveFiles, spec: DatasetSpec) -> Iterator[Cell]:
    dated = spec.event_date_column
    bounds: list[dict[str, Any]] = [{}] * files.table.num_rows
    if dated is not None and spec.date_grain is not DateGrain.DAY:
        names = [n for n in (f"min.{dated}", f"max.{dated}") if n in files.table.column_names]
        bounds = files.table.select(names).to_pylist()
    for partition, bound in zip(files.partitions, bounds, strict=True):
        bucket = partition.get(bucket_column(spec))
        low = high = None
        if dated is not None and spec.date_grain is DateGrain.DAY:
            low = high = partition.get(dated)
        elif dated is not None:
            low, high = bound.get(f"min.{dated}"), bound.get(f"max.{dated}")
            if low is None or high is None:
                low, high = _month(partition.get(partition_columns(spec)[0]) if len(partition) > 1 else None)
        yield Cell(low, high, None if bucket is None else int(bucket))


def _month(text: str | None) -> tuple[date | None, date | None]:
    if text is None:
        return None, None
    return whole_month(date.fromisoformat(f"{text}-01"))
