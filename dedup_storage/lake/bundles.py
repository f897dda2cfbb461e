"""What bundling feature groups would do, from metadata alone; and which bundles are left empty."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from dedup_storage.errors import UsageError, known_names
from dedup_storage.lake.groups import FeatureGroup, by_table, feature_groups, find_group, grain_table
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.layout import Layout
from dedup_storage.schema import Grain, check_name
from dedup_storage.words import counted

__all__ = ["BundlePlan", "bundle_run", "left_empty", "plan_bundle", "to_bundle"]

# Joins that a bundle must save. Two tables cost a read little; what they become is written anew by every refresh.
_FEWEST_SAVED = 2


class BundlePlan(BaseModel):
    """What bundling would do; nothing is written.

    Attributes:
        dataset, bundle, version: Which groups of which version.
        grain: What one row stands for.
        groups: The groups, by name.
        columns: Columns that the shared table would have, without keys.
        rows: Rows that it would have: one for each key of the log; at request grain of flat layout, where no count of
            them is kept, as many as the greatest table now.
        bytes_read: Of the tables that hold the groups now.
        bytes_written: At most so many, since keys are stored once instead of once for each table.
        joins, joins_after: Joins of a read of all these groups, now and then.
        refresh_columns: Columns that a refresh of one group writes in each segment that it changes, for its own alone
            now.
        pays: Whether reads save more than refreshes lose, where the groups are read together more often than they are
            refreshed.
        why: Why it does, or does not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    bundle: str
    version: int
    grain: str
    groups: tuple[str, ...]
    columns: tuple[str, ...]
    rows: int
    bytes_read: int
    bytes_written: int
    joins: int
    joins_after: int
    refresh_columns: int
    pays: bool
    why: str


def bundle_run(run_id: str, bundle: str) -> str:
    """The run in which a maintenance run makes a bundle."""
    return f"{run_id}-bundle-{bundle}"


def to_bundle(
    groups: Mapping[str, FeatureGroup], bundle: str, names: Sequence[str], dataset: str
) -> tuple[FeatureGroup, ...]:
    """The groups that are to share a table, by name.

    Args:
        groups: Those of the version.
        bundle: Name of the bundle.
        names: Which of them.
        dataset: For messages.

    Raises:
        UnsafeNameError: the bundle's name could not be an identifier.
        UnknownColumnError: there is no group of a name.
        UsageError: they are of two grains, one is promoted, or there is nothing to bring together.
    """
    check_name(bundle, "bundle's name")
    if isinstance(names, str):
        raise UsageError(
            "groups must be a list, not one text", expected="a list of feature groups' names", got=names[:80]
        )
    chosen = tuple(find_group(groups, name, dataset) for name in sorted(set(names)))
    for group in chosen:
        if group.grain is Grain.EVENT:
            raise UsageError(
                f"the feature group {group.name} is at event grain, and bundles hold groups of requests or impressions",
                fix="Leave it out: each such group is read by itself.",
            )
        if group.promoted is not None:
            raise UsageError(
                f"the feature group {group.name} is promoted: reading it joins nothing",
                got=f"columns of {group.promoted}",
                fix="Leave it out.",
            )
    if len({group.grain for group in chosen}) > 1:
        raise UsageError(
            "groups of two grains have no table in common",
            expected="groups of one grain",
            got=", ".join(f"{group.name} ({group.grain.value})" for group in chosen),
            fix="Make one bundle for each grain.",
        )
    sharing = {table: len(there) for table, there in by_table(groups.values()).items()}
    # A group alone is taken out of the bundle that it lies in.
    if len(chosen) < 2 and not any(group.bundled and sharing[group.home] > 1 for group in chosen):
        raise UsageError(
            "one table for one feature group is what it has",
            expected="two groups or more, or one that lies in a bundle with others",
            got=", ".join(names) or "none",
            fix=f"Name some of these: {known_names('', groups)}." if groups else "Add groups first.",
        )
    homes = {group.home for group in chosen}
    if len(homes) == 1 and sharing[chosen[0].home] == len(chosen):
        raise UsageError(
            "these feature groups share a table already",
            got=f"{chosen[0].home} of {', '.join(group.name for group in chosen)}",
        )
    return chosen


def left_empty(groups: Iterable[FeatureGroup], leaving: Collection[str]) -> tuple[str, ...]:
    """Bundles' tables that hold no group any more once these have left, by name: versions leave them out.

    Args:
        groups: Those of the version.
        leaving: Names of groups.
    """
    tables = by_table(group for group in groups if group.bundled is not None)
    return tuple(sorted(t for t, there in tables.items() if {g.name for g in there} <= set(leaving)))


def plan_bundle(meta: DatasetMetadata, version: int | None, bundle: str, names: Sequence[str]) -> BundlePlan:
    """What a bundle would be, from metadata alone.

    Args:
        meta: The dataset's tables.
        version: The version; ``None`` for the newest.
        bundle: Name of the bundle.
        names: The groups.

    Raises:
        VersionNotFoundError: there is no such version.
        UsageError, UnknownColumnError: see ``to_bundle``.
    """
    number = meta.resolve(version)
    spec, snapshots = meta.spec_of(number), meta.snapshots(number)
    groups = feature_groups(meta, number)
    chosen = to_bundle(groups, bundle, names, spec.name)
    totals = {table: meta.totals(table, snapshots[table]) for table in by_table(chosen)}
    own = grain_table(spec, chosen[0].grain).name
    repeated = spec.layout is Layout.FLAT and chosen[0].grain is Grain.REQUEST
    columns = tuple(name for group in chosen for name in group.names)
    size, saved = sum(t.bytes for t in totals.values()), len(totals) - 1
    pays = saved >= _FEWEST_SAVED
    return BundlePlan(
        dataset=spec.name,
        bundle=bundle,
        version=number,
        grain=chosen[0].grain.value,
        groups=tuple(group.name for group in chosen),
        columns=columns,
        rows=max(t.rows for t in totals.values()) if repeated else meta.totals(own, snapshots[own]).rows,
        bytes_read=size,
        bytes_written=size,
        joins=len(totals),
        joins_after=1,
        refresh_columns=len(columns),
        pays=pays,
        why=f"a read of these groups saves {saved} of {counted(len(totals), 'join')}; a refresh of one of them writes "
        f"{counted(len(columns), 'column')} where it changes a segment",
    )
