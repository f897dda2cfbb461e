"""Where the columns of a feature group come from, by its definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dedup_storage.lake.groups import FeatureGroup, SourceKind, columns_of, feature_groups, grain_table
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.layout import Layout
from dedup_storage.lineage.model import ColumnUse, Place
from dedup_storage.schema import Grain

__all__ = ["References", "column_types", "group_uses"]

# Columns -> DDL types, and an SQL expression over them: the columns that it reads.
References = Callable[[Mapping[str, str], str], frozenset[str]]


def group_uses(
    meta: DatasetMetadata,
    version: int,
    group: FeatureGroup,
    places: Callable[[str], Place],
    lookup: Place | None,
    references: References,
) -> dict[str, tuple[ColumnUse, ...]]:
    """Column of a group -> the columns that it is computed from; empty for a group that came as a frame.

    Args:
        meta: The dataset's tables.
        version: The version that holds the group.
        group: The group.
        places: Place of a table of the dataset.
        lookup: Place of the table that the group looks up in.
        references: What an expression reads, by the parser that computes it.
    """
    known = _inputs(meta, version, group, places)
    source = group.source
    if source.kind is SourceKind.EXPRESSION:
        types = column_types(meta, version)
        if group.grain is Grain.EVENT:
            spec = meta.spec_of(version)
            types |= group.events_of(spec).types(spec.types, spec.schema_.user)
        typed = {name: types.get(name, "string") for name in known}
        return {
            column: tuple(
                ColumnUse(known[name], name, True, "IDENTITY" if text.strip("` ") == name else "TRANSFORMATION")
                for name in sorted(references(typed, text))
                if name in known
            )
            for column, text in source.expressions.items()
        }
    if source.kind is SourceKind.JOIN and lookup is not None:
        keys = tuple(
            use
            for own, other in source.on.items()
            for use in (
                *([ColumnUse(known[own], own, False, "JOIN")] if own in known else []),
                ColumnUse(lookup, other, False, "JOIN"),
            )
        )
        return {column: (ColumnUse(lookup, other, True, "IDENTITY"), *keys) for column, other in source.columns.items()}
    if source.kind is SourceKind.FUNCTION:
        # Nobody sees into a function of frames: it may make each column of any that it is given.
        every = tuple(ColumnUse(place, name, True, "TRANSFORMATION") for name, place in known.items())
        return dict.fromkeys(group.names, every)
    return {}


def column_types(meta: DatasetMetadata, version: int) -> dict[str, str]:
    """Spark DDL type of each column of a version, feature groups' among them, as far as the dataset says."""
    spec = meta.spec_of(version)
    own = {spec.position_column: "int", **({spec.event_date_column: "date"} if spec.event_date_column else {})}
    groups = {name: kind for group in feature_groups(meta, version).values() for name, kind in group.types.items()}
    return {**own, **groups, **spec.types}


def _inputs(
    meta: DatasetMetadata, version: int, group: FeatureGroup, places: Callable[[str], Place]
) -> dict[str, Place]:
    """Columns that a group's frames have -> the tables that hold them."""
    spec, groups, found = meta.spec_of(version), feature_groups(meta, version), dict[str, Place]()
    if group.grain is Grain.EVENT:
        table = grain_table(spec, group.grain, group.sequence).name
        return {name: places(table) for name in columns_of(meta, version, table)}
    # An impression's frames have its request's columns beside its own; those of the grain's own table count.
    grains = [Grain.REQUEST, Grain.IMPRESSION] if group.grain is Grain.IMPRESSION else [Grain.REQUEST]
    for grain in grains:
        table = grain_table(spec, grain).name
        names = columns_of(meta, version, table)
        if spec.layout is Layout.FLAT and grain is Grain.REQUEST and group.grain is Grain.REQUEST:
            other = {spec.position_column, *spec.columns_of(Grain.IMPRESSION)}
            names = tuple(name for name in names if name not in other)
        found |= {name: places(table) for name in names if name not in group.names}
    for used in group.uses:
        if used in groups:
            found |= {name: places(groups[used].home) for name in groups[used].names}
    return found
