"""What the catalog knows of a dataset, read with PyIceberg: no Spark, no data files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from dedup_storage.config import Settings
from dedup_storage.errors import DatasetNotFoundError, StorageError, VersionNotFoundError, known_names
from dedup_storage.layout import (
    PROPERTY_PREFIX,
    ROLE_PROPERTY,
    SPEC_PROPERTY,
    DatasetSpec,
    claim_tag,
    parse_version_tag,
    version_tag,
)
from dedup_storage.schema import check_name
from dedup_storage.tables.catalog import pyiceberg_properties

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

__all__ = ["DatasetMetadata", "Lake", "VersionInfo", "ancestors", "live_rows", "snapshot_summary", "tags"]

ANCHORS = ("requests", "logs")
EXPIRED_PREFIX = PROPERTY_PREFIX + "expired."


class VersionInfo(BaseModel):
    """One published version.

    Attributes:
        version: 1, 2, 3, …
        run_id: The run that published it.
        job: The job of that run (``write``, ``backfill``, ``rollback``, …).
        created_ms: Milliseconds since the epoch (UTC).
        parent: The version it was made from, 0 for the first; for a rollback, the version it restores.
        snapshots: Table name -> snapshot id.
        rows: Table name -> rows, where the catalog knows them.
        pins: Labels that keep it from expiry.
        summary: The run's own facts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    run_id: str
    job: str
    created_ms: int
    parent: int
    snapshots: Mapping[str, int]
    rows: Mapping[str, int]
    pins: tuple[str, ...] = ()
    summary: Mapping[str, str] = Field(default_factory=dict)


def tags(table: Table) -> dict[str, int]:
    """Tag and branch name -> snapshot id."""
    return {name: ref.snapshot_id for name, ref in table.metadata.refs.items()}


def snapshot_summary(snapshot: Snapshot) -> dict[str, str]:
    """A snapshot's summary with its operation."""
    if snapshot.summary is None:
        return {}
    return {"operation": snapshot.summary.operation.value, **snapshot.summary.additional_properties}


def ancestors(table: Table, snapshot_id: int | None) -> list[Snapshot]:
    """The snapshot and those it was made from, newest first, as far as they are kept."""
    by_id = {s.snapshot_id: s for s in table.metadata.snapshots}
    line = []
    while snapshot_id is not None and snapshot_id in by_id:
        snapshot = by_id[snapshot_id]
        line.append(snapshot)
        snapshot_id = snapshot.parent_snapshot_id
    return line


def live_rows(table: Table, snapshot_id: int | None) -> int:
    """Rows of a snapshot, hidden ones left out, from its own counts."""
    snapshot = table.snapshot_by_id(snapshot_id) if snapshot_id is not None else None
    summary = snapshot_summary(snapshot) if snapshot is not None else {}
    return int(summary.get("total-records", 0)) - int(summary.get("total-position-deletes", 0))


class DatasetMetadata:
    """A dataset's tables as the catalog shows them at one moment."""

    def __init__(self, spec: DatasetSpec, tables: Mapping[str, Table]) -> None:
        self.spec, self.tables = spec, dict(tables)

    @property
    def anchor(self) -> Table:
        """The table whose tags decide which versions exist."""
        return self.tables[self.spec.anchor.name]

    @cached_property
    def version_numbers(self) -> list[int]:
        """Published versions, oldest first."""
        found = (parse_version_tag(tag) for tag in tags(self.anchor))
        return sorted(n for n in found if n is not None)

    @property
    def current(self) -> int:
        """The newest published version; 0 when nothing was published yet."""
        return self.version_numbers[-1] if self.version_numbers else 0

    @property
    def pending(self) -> int | None:
        """A version that is decided but not yet complete."""
        following = self.current + 1
        return following if claim_tag(following) in tags(self.anchor) else None

    def resolve(self, version: int | None) -> int:
        """The version asked for, or the newest.

        Raises:
            VersionNotFoundError: there is no such version, or none at all.
        """
        numbers = self.version_numbers
        if version is None and numbers:
            return numbers[-1]
        if version not in numbers:
            raise VersionNotFoundError(
                f"the dataset {self.spec.name} has no version {'yet' if version is None else version}",
                expected=f"{numbers[0]} to {numbers[-1]}" if numbers else "a first write",
                fix="List them with: dedup-storage versions.",
            )
        return version

    def snapshots(self, version: int) -> dict[str, int]:
        """Table name -> snapshot id of one published version, anchor first."""
        tag = version_tag(version)
        members = {name: tags(table)[tag] for name, table in self.tables.items() if tag in tags(table)}
        return dict(sorted(members.items(), key=lambda item: item[0] != self.spec.anchor.name))

    def role(self, table: str) -> str | None:
        """What a table is for, as its property says."""
        return self.tables[table].properties.get(ROLE_PROPERTY)

    def claim(self, version: int) -> dict[str, str]:
        """The facts of the run that decided a version, prefix stripped; empty when no longer kept."""
        staged = tags(self.anchor).get(claim_tag(version))
        snapshot = self.anchor.snapshot_by_id(staged) if staged is not None else None
        if snapshot is None:
            # What maintenance remembered of an expired version.
            facts = json.loads(self.anchor.properties.get(EXPIRED_PREFIX + version_tag(version), "{}"))
            return {str(key): str(value) for key, value in facts.items()}
        facts = {
            key.removeprefix(PROPERTY_PREFIX): value
            for key, value in snapshot_summary(snapshot).items()
            if key.startswith(PROPERTY_PREFIX)
        }
        return {**facts, "staged": str(staged), "created-ms": str(snapshot.timestamp_ms)}

    def lineage(self, version: int) -> list[int]:
        """The version and those whose content it contains, newest first; a rollback leads to what it restores."""
        line = []
        while version > 0:
            line.append(version)
            version = int(self.claim(version).get("parent", version - 1))
        return line

    def version_of_run(self, run_id: str) -> int | None:
        """The version a run published, if today's content contains it."""
        for version in self.lineage(self.current):
            if self.claim(version).get("run-id") == run_id:
                return version
        return None

    def info(self, version: int) -> VersionInfo:
        """Everything known of one version."""
        facts = self.claim(version)
        snapshots = self.snapshots(version)
        rows = {}
        for name, snapshot_id in snapshots.items():
            snapshot = self.tables[name].snapshot_by_id(snapshot_id)
            total = snapshot_summary(snapshot).get("total-records") if snapshot else None
            if total is not None:
                rows[name] = int(total)
        pin = f"pin-v{version}-"
        return VersionInfo(
            version=version,
            run_id=facts.pop("run-id", ""),
            job=facts.pop("job", ""),
            created_ms=int(facts.pop("created-ms", 0)),
            parent=int(facts.pop("parent", version - 1)),
            snapshots=snapshots,
            rows=rows,
            pins=tuple(sorted(t.removeprefix(pin) for t in tags(self.anchor) if t.startswith(pin))),
            summary=facts,
        )


class Lake:
    """The catalog of one configuration, seen through PyIceberg."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def catalog(self) -> Catalog:
        """The PyIceberg catalog.

        Raises:
            StorageError: it cannot be reached.
        """
        from pyiceberg.catalog import load_catalog

        try:
            return load_catalog(self.settings.catalog.name, **pyiceberg_properties(self.settings))
        except (OSError, ValueError) as error:
            kind = self.settings.catalog.type.value
            raise StorageError(
                f"the {kind} catalog cannot be opened: {error}", fix="Check the section catalog."
            ) from error

    def datasets(self) -> list[str]:
        """Names of the datasets in the catalog."""
        return sorted(
            ".".join(namespace) for namespace in self.catalog.list_namespaces() if self._anchor(".".join(namespace))
        )

    def _anchor(self, dataset: str) -> Table | None:
        from pyiceberg.exceptions import NoSuchTableError

        for name in ANCHORS:
            try:
                table = self.catalog.load_table((dataset, name))
            except NoSuchTableError:
                continue
            if SPEC_PROPERTY in table.properties:
                return table
        return None

    def find(self, dataset: str) -> DatasetMetadata | None:
        """A dataset's tables, or ``None`` when there is no such dataset."""
        check_name(dataset, "dataset name")
        anchor = self._anchor(dataset)
        if anchor is None:
            return None
        spec = DatasetSpec.from_json(anchor.properties[SPEC_PROPERTY])
        tables = {spec.anchor.name: anchor}
        for identifier in self.catalog.list_tables((dataset,)):
            if identifier[-1] not in tables:
                table = self.catalog.load_table(identifier)
                if ROLE_PROPERTY in table.properties:
                    tables[identifier[-1]] = table
        return DatasetMetadata(spec, tables)

    def state(self, table: str) -> int | None:
        """The newest snapshot of a table that changed its rows, as ``namespace.table``; ``None`` where there is none.

        Compaction by whatever tool is passed over.
        """
        from pyiceberg.exceptions import NoSuchTableError

        try:
            found = self.catalog.load_table(tuple(table.split(".")))
        except NoSuchTableError:
            return None
        line = ancestors(found, found.metadata.current_snapshot_id)
        changed = [s for s in line if snapshot_summary(s).get("operation") != "replace"] or line[-1:]
        return changed[0].snapshot_id if changed else None

    def load(self, dataset: str) -> DatasetMetadata:
        """A dataset's tables.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
        """
        found = self.find(dataset)
        if found is None:
            others = self.datasets()
            raise DatasetNotFoundError(
                f"there is no dataset {dataset} in the catalog {self.settings.catalog.name}",
                expected=known_names(dataset, others) if others else None,
                fix="Create it with: dedup-storage write.",
            )
        return found
