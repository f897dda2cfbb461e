"""The feature groups of a published version against the keys of its log."""

from __future__ import annotations

from collections.abc import Iterator

from pyspark.sql import DataFrame

from dedup_storage.dataset.features.events import EventInputs
from dedup_storage.dataset.features.inputs import Inputs
from dedup_storage.dataset.features.stale import stale_window
from dedup_storage.dataset.features.window import EVERYTHING
from dedup_storage.dataset.handle import Cut
from dedup_storage.lake.groups import FeatureGroup, group_table
from dedup_storage.quality.features import run_feature_gate
from dedup_storage.quality.model import Verdict
from dedup_storage.schema import Grain

__all__ = ["verify_groups"]


def verify_groups(cut: Cut, run_id: str) -> Iterator[tuple[str, Verdict]]:
    """Judge every group of a version by the rules it was added under, by name, one verdict each.

    Rows that a refresh would compute anyway are left out: a day that was just written has none yet.

    Args:
        cut: The version.
        run_id: Names the verdicts, the group's name added.
    """
    handle = cut.handle
    for group in cut.groups.values():
        stale = stale_window(cut, group, lookups=False)
        if stale == EVERYTHING:
            continue
        at_events = group.grain is Grain.EVENT
        if at_events and stale is not None:
            # Which of the events a refresh would compute is not a question of dates.
            continue
        inputs = (
            EventInputs(cut, group)
            if at_events
            else Inputs(cut, grain=group.grain, groups=cut.groups, uses=(), window=EVERYTHING)
        )
        keys, rows = inputs.keys(EVERYTHING), _rows(cut, group)
        if stale is not None:
            keys, rows = stale.outside(handle, keys), stale.outside(handle, rows)
        verdict = run_feature_gate(
            spec=cut.spec,
            settings=handle.settings,
            run_id=f"{run_id}-{group.name}",
            group=group,
            staged=rows,
            keys=keys,
        )
        yield group.name, verdict


def _rows(cut: Cut, group: FeatureGroup) -> DataFrame:
    """The group's rows, wherever they are now: one for each of its keys."""
    rows = cut.rows(group.home).select(*group_table(cut.spec, group).columns)
    # A request's values stand in each of its rows in flat layout.
    return rows if group.promoted is None else rows.dropDuplicates(list(group.key(cut.spec)))
