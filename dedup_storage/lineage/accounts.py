"""What a run read and changed, from the dataset's metadata once it is done: no row is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dedup_storage.config import Settings
from dedup_storage.lake.groups import FeatureGroup, SourceKind, columns_of, feature_groups, grain_table
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lineage.columns import References, column_types, group_uses
from dedup_storage.lineage.model import Account, ColumnUse, Place, Product, Source
from dedup_storage.lineage.places import catalog_place, place_of

__all__ = ["Tables"]


class Tables:
    """The tables of a dataset as sources and products.

    Args:
        settings: Settings of the lake.
        meta: The dataset's tables, as they are after the run.
    """

    def __init__(self, settings: Settings, meta: DatasetMetadata) -> None:
        self._settings, self._meta = settings, meta

    def place(self, table: str) -> Place:
        """Where a table lies."""
        return place_of(self._meta.location(table))

    def source(self, table: str, version: int) -> Source:
        """A table in a version."""
        named = catalog_place(self._settings, f"{self._meta.spec.name}.{table}")
        symlink = named if self._settings.has_catalog else None
        return Source(self.place(table), str(version), symlink)

    def sources(self, version: int, names: Iterable[str] | None = None) -> tuple[Source, ...]:
        """Tables of a version that can be asked for still; all of them when none are named."""
        if version not in self._meta.version_numbers:
            return ()
        known = self._meta.snapshots(version)
        return tuple(self.source(name, version) for name in (known if names is None else names) if name in known)

    def products(self, version: int, names: Iterable[str]) -> tuple[Product, ...]:
        """Tables of a version that a run changed, by whatever number of rows."""
        known = self._meta.snapshots(version)
        return tuple(self.product(name, version, counted=False) for name in names if name in known)

    def product(self, table: str, version: int, *, counted: bool = True) -> Product:
        """A table as a version left it.

        Args:
            table: The table.
            version: The version.
            counted: Whether what its snapshot added is what the run added.
        """
        meta, types = self._meta, column_types(self._meta, version)
        added = meta.added(table, meta.snapshots(version)[table]) if counted else None
        return Product(
            source=self.source(table, version),
            types={name: types.get(name, "") for name in columns_of(meta, version, table)},
            rows=added.rows if added is not None else None,
            bytes=added.bytes if added is not None else None,
        )

    def of_run(self, run_id: str, *, rewrites: bool) -> Account:
        """What a run published, if it did.

        Args:
            run_id: The run.
            rewrites: Whether it made the tables' rows from those of the version before.
        """
        version = self._meta.version_of_run(run_id)
        if version is None:
            return Account(run_id=run_id)
        parent = self._meta.parent(version)
        changed = self._changed(version, parent)
        return Account(
            run_id=run_id,
            version=version,
            read=parent if rewrites else None,
            sources=self.sources(parent, changed) if rewrites else (),
            products=tuple(self.product(name, version) for name in changed),
        )

    def restored(self, version: int) -> Account:
        """What a rollback published: the tables of an older version again."""
        meta, older = self._meta, self._meta.parent(version)
        names = meta.snapshots(version)
        return Account(
            run_id=meta.claim(version).get("run-id"),
            version=version,
            read=older,
            sources=self.sources(older),
            products=tuple(self.product(name, version, counted=False) for name in names),
        )

    def whole(self, version: int) -> Account:
        """A version that holds nothing but what the run brought."""
        if version not in self._meta.version_numbers:
            return Account()
        rows = self._meta.rows(version)
        products = (
            replace(self.product(name, version, counted=False), rows=rows.get(name))
            for name in self._meta.snapshots(version)
        )
        return Account(version=version, products=tuple(products))

    def of_group(self, run_id: str, name: str, references: References) -> Account:
        """What adding or refreshing a feature group published.

        Args:
            run_id: The run.
            name: The group.
            references: See ``group_uses``.
        """
        done = self.of_run(run_id, rewrites=False)
        version = done.version
        group = feature_groups(self._meta, version).get(name) if version is not None else None
        if version is None or group is None:
            return done
        parts = [part for part in group.coverage if part.version == max(p.version for p in group.coverage)]
        read = {table for part in parts for table in part.snapshots}
        base = parts[0].version if parts else self._meta.parent(version)
        looked_up = self._looked_up(group)
        lookup = looked_up.place if looked_up is not None else None
        uses = group_uses(self._meta, version, group, self.place, lookup, references)
        home = self.place(group.home)
        return replace(
            done,
            read=base,
            sources=(*self.sources(base, sorted(read)), *([looked_up] if looked_up is not None else [])),
            products=tuple(
                replace(product, uses=uses) if product.source.place == home else product for product in done.products
            ),
        )

    def of_move(self, run_id: str, names: Iterable[str]) -> Account:
        """What promoting or bundling feature groups published: their columns in another table, as they were in those
        of before.

        Args:
            run_id: The run.
            names: The groups.
        """
        done = self.of_run(run_id, rewrites=False)
        version = done.version
        if version is None:
            return done
        parent, groups = self._meta.parent(version), feature_groups(self._meta, version)
        before = feature_groups(self._meta, parent)
        moved = [groups[name] for name in names if name in groups]
        former = {
            group.name: before.get(group.name, group.model_copy(update={"promoted": None, "bundled": None})).home
            for group in moved
        }
        uses: dict[Place, dict[str, tuple[ColumnUse, ...]]] = {}
        for group in moved:
            own = self.place(former[group.name])
            found = {column: (ColumnUse(own, column, True, "IDENTITY"),) for column in group.names}
            uses.setdefault(self.place(group.home), {}).update(found)
        grains = (grain_table(self._meta.spec_of(version), group.grain).name for group in moved)
        return replace(
            done,
            read=parent,
            sources=self.sources(parent, dict.fromkeys((*former.values(), *grains))),
            products=tuple(replace(p, uses=uses.get(p.source.place, p.uses)) for p in done.products),
        )

    def of_drop(self, run_id: str) -> Account:
        """What a version leaves out that the one before had."""
        version = self._meta.version_of_run(run_id)
        if version is None:
            return Account(run_id=run_id)
        parent, now = self._meta.parent(version), self._meta.snapshots(version)
        before = self._meta.snapshots(parent) if parent in self._meta.version_numbers else {}
        gone = tuple(Product(self.source(name, version), dropped=True) for name in before if name not in now)
        return Account(run_id=run_id, version=version, products=gone)

    def _looked_up(self, group: FeatureGroup) -> Source | None:
        """The table of another owner that a group looks up in."""
        if group.source.kind is not SourceKind.JOIN or group.source.table is None:
            return None
        states = [part.lookups.get(group.source.table) for part in group.coverage]
        state = next((s for s in reversed(states) if s is not None), None)
        return Source(catalog_place(self._settings, group.source.table), str(state) if state is not None else None)

    def _changed(self, version: int, parent: int) -> list[str]:
        """Tables of a version whose rows another version before it did not have."""
        meta, now = self._meta, self._meta.snapshots(version)
        before = meta.snapshots(parent) if parent in meta.version_numbers else {}
        return [name for name, snapshot in now.items() if before.get(name) != snapshot and self._moved(name, snapshot)]

    def _moved(self, table: str, snapshot: int) -> bool:
        """Whether a snapshot brought or took rows: the anchor gets one with every version."""
        added = self._meta.added(table, snapshot)
        return bool(added.rows or added.segments or added.marks)
