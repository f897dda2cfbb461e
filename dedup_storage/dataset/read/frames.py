"""A version's rows as frames that nothing has run yet: each grain, and the flat log."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.features.read import GroupReader
from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.lists import source_typed
from dedup_storage.layout import Layout, TableRole
from dedup_storage.schema import Grain
from dedup_storage.spark.errors import translated

__all__ = ["impressions", "logs", "requests"]


def requests(handle: Handle, version: int | None = None, features: Sequence[str] | None = None) -> DataFrame:
    """Request rows (R): the request keys and every request-grain column, in the source's types.

    In flat layout they are collapsed on reading.

    Args:
        handle: The dataset.
        version: ``None`` takes the newest.
        features: Feature groups whose columns come after the log's own; ``None`` for all, ``()`` for none.
    """
    with translated():
        cut = handle.cut(version)
        spec, groups = cut.spec, GroupReader(cut, features)
        keys, own = spec.request_key, spec.columns_of(Grain.REQUEST)
        columns = (*keys, *own, *groups.columns(Grain.REQUEST, Grain.EVENT))
        if spec.layout.divided:
            rows = groups.attach(groups.own(TableRole.REQUESTS), Grain.REQUEST)
            return source_typed(spec, rows, columns)
        stored = (*own, *groups.promoted(Grain.REQUEST))
        rows = source_typed(spec, groups.own(TableRole.LOGS), (*keys, *stored))
        wide = [F.first(c).alias(c) for c in stored]
        grouped = rows.groupBy(*keys).agg(*wide) if wide else rows.select(*keys).distinct()
        return groups.attach(grouped, Grain.REQUEST).select(*columns)


def impressions(handle: Handle, version: int | None = None, features: Sequence[str] | None = None) -> DataFrame:
    """Impression rows (B): the request keys, the position and every impression-grain column.

    Args:
        handle, version, features: As for ``requests``, groups at impression grain.
    """
    with translated():
        cut = handle.cut(version)
        spec, groups = cut.spec, GroupReader(cut, features)
        role = TableRole.IMPRESSIONS if spec.layout.divided else TableRole.LOGS
        own = (*spec.impression_key, *spec.columns_of(Grain.IMPRESSION))
        rows = groups.attach(groups.own(role), Grain.IMPRESSION)
        return source_typed(spec, rows, dict.fromkeys((*own, *groups.columns(Grain.IMPRESSION))))


def logs(handle: Handle, version: int | None = None, features: Sequence[str] | None = None) -> DataFrame:
    """The flat log (B rows), equal to the source row for row, columns in the source's order and types.

    Args:
        handle, version, features: As for ``requests``, groups of both grains.
    """
    with translated():
        cut = handle.cut(version)
        spec, groups = cut.spec, GroupReader(cut, features)
        columns = (*spec.source_columns, *groups.columns(*Grain))
        if spec.layout is Layout.FLAT:
            rows = groups.attach(groups.own(TableRole.LOGS), Grain.REQUEST, Grain.IMPRESSION)
            return source_typed(spec, rows, columns)
        request_rows = groups.attach(groups.own(TableRole.REQUESTS), Grain.REQUEST)
        impression_rows = groups.attach(groups.own(TableRole.IMPRESSIONS), Grain.IMPRESSION)
        on = list(spec.request_key)
        if spec.event_date_column:
            on.append(spec.event_date_column)
        # Never a broadcast: Iceberg's size estimate takes a list for a few bytes.
        joined = impression_rows.join(request_rows.hint("merge"), on)
        return source_typed(spec, joined, columns)
