"""The feature groups of a published version against the keys of its log."""

from __future__ import annotations

from collections.abc import Iterator

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.features.inputs import Inputs
from dedup_storage.dataset.features.window import EVERYTHING, Window
from dedup_storage.dataset.handle import Handle
from dedup_storage.lake.groups import FeatureGroup, feature_groups, stale_cells
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.layout import DatasetSpec
from dedup_storage.quality.features import run_feature_gate
from dedup_storage.quality.model import Verdict

__all__ = ["verify_groups"]


def verify_groups(handle: Handle, meta: DatasetMetadata, version: int, run_id: str) -> Iterator[tuple[str, Verdict]]:
    """Judge every group of a version by the rules it was added under, by name, one verdict each.

    Rows that a refresh would compute anyway are left out: a day that was just written has none yet.

    Args:
        handle: The dataset.
        meta: Its tables.
        version: The version.
        run_id: Names the verdicts, the group's name added.
    """
    tables, settings, spec = handle.tables, handle.settings, handle.spec
    groups = feature_groups(meta, version)
    catalog = settings.catalog.name
    for group in groups.values():
        cells = stale_cells(meta, spec, version, group)
        stale = Window.of(cells, spec) if cells else None
        if stale == EVERYTHING:
            continue
        inputs = Inputs(tables, spec, meta, version, catalog=catalog, grain=group.grain, groups=groups, uses=(),
                        window=EVERYTHING)  # fmt: skip
        keys = inputs.keys(EVERYTHING)
        rows = _rows(tables, spec, meta, version, group)
        if stale is not None:
            keys, rows = (_outside(frame, stale, spec, tables.bucket(spec)) for frame in (keys, rows))
        named = f"{run_id}-{group.name}"
        verdict = run_feature_gate(spec=spec, settings=settings, run_id=named, group=group, staged=rows, keys=keys)
        yield group.name, verdict


def _rows(
    tables: TableFormat, spec: DatasetSpec, meta: DatasetMetadata, version: int, group: FeatureGroup
) -> DataFrame:
    """The group's rows, wherever they are now: one for each of its keys."""
    table = group.promoted or group.table
    rows = tables.read(spec.name, table, meta.snapshots(version)[table])
    if group.promoted is None:
        return rows
    dates = (spec.event_date_column,) if spec.event_date_column else ()
    rows = rows.select(*dict.fromkeys((*group.key(spec), *dates, *group.names)))
    # A request's values stand in each of its rows in flat layout.
    return rows.dropDuplicates(list(group.key(spec)))


def _outside(frame: DataFrame, window: Window, spec: DatasetSpec, bucket: Column) -> DataFrame:
    inside = window.condition(spec, bucket)
    return frame if inside is None else frame.filter(~F.coalesce(inside, F.lit(False)))
