"""A dataset's versions as every table format shows them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from dedup_storage.config import Settings
from dedup_storage.errors import DatasetExistsError, DatasetNotFoundError, VersionNotFoundError, known_names
from dedup_storage.lake.cells import Cell
from dedup_storage.lake.members import Members
from dedup_storage.lake.stored_users import StoredUsers
from dedup_storage.layout import ROLE_PROPERTY, DatasetSpec

__all__ = [
    "ANCHORS",
    "Added",
    "Catalog",
    "DatasetMetadata",
    "FileShare",
    "Rebucketing",
    "Totals",
    "VersionInfo",
    "left_over",
    "no_dataset",
    "version_expired",
]

# Tables that may describe a dataset.
ANCHORS = ("requests", "logs")


def no_dataset(
    dataset: str, settings: Settings, others: Sequence[str], way_out: str | None = None
) -> DatasetNotFoundError:
    """The error for a dataset that is not there; says where it was looked for, since a folder may decide that.

    Args:
        dataset: Its name.
        settings: Settings of the lake.
        others: Names of those that are there.
        way_out: What to do, where that is known.
    """
    catalog = f", catalog {settings.catalog.name}" if settings.has_catalog else ""
    return DatasetNotFoundError(
        f"there is no dataset {dataset} of format {settings.format} in the warehouse {settings.warehouse_uri}{catalog} "
        f"(settings: {settings.origin})",
        expected=known_names(dataset, others) if others else None,
        got=None if others else "a warehouse without datasets",
        fix=way_out or "Name other settings with --config, or create it with: dedup-storage write.",
    )


def left_over(dataset: str, table: str) -> DatasetExistsError:
    """The error for a table with rows under the name of a dataset that is not there."""
    return DatasetExistsError(
        f"there is no dataset {dataset}, and under its name lies a table {table} of one, with rows",
        fix="Choose another name, or drop the table if nobody needs it.",
    )


def version_expired(dataset: str, version: int, done: str = "pinned") -> VersionNotFoundError:
    """The error for a version that expired while something was done to it.

    Args:
        dataset, version: Which.
        done: What.
    """
    return VersionNotFoundError(
        f"version {version} of {dataset} expired while it was {done}",
        fix="Nothing was changed. List the versions with: dedup-storage versions list.",
    )


@dataclass(frozen=True)
class FileShare:
    """Files of a snapshot: those that something opens, and all.

    Attributes:
        files, bytes: Those opened.
        all_files, all_bytes: All.
    """

    files: int
    all_files: int
    bytes: int
    all_bytes: int


class VersionInfo(BaseModel):
    """One published version.

    Attributes:
        version: 1, 2, 3, …
        run_id: The run that published it.
        job: The job of that run (``write``, ``backfill``, ``rollback``, …).
        created_ms: Milliseconds since the epoch (UTC).
        parent: The version it was made from, 0 for the first; for a rollback, the version it restores.
        snapshots: Table name -> snapshot id.
        rows: Table name -> rows, hidden ones left out, where the catalog knows them.
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


@dataclass(frozen=True)
class Totals:
    """What one snapshot of a table holds.

    Attributes:
        files, bytes: Of its data files.
        rows: Without those that are hidden.
    """

    files: int
    bytes: int
    rows: int


@dataclass(frozen=True)
class Added:
    """What one snapshot of a table brought.

    Attributes:
        segments: Partitions in which files came or went.
        rows, bytes: Of the new files.
        marks: New deletion vectors.
    """

    segments: int
    rows: int
    bytes: int
    marks: int = 0


@dataclass(frozen=True)
class Rebucketing:
    """A version in which the number of user buckets changed.

    Attributes:
        version: Which.
        before, after: User buckets of its parent, and from it on.
    """

    version: int
    before: int
    after: int

    def of(self, dataset: str) -> str:
        """As a sentence says it."""
        return (
            f"the number of buckets of {dataset} changed from {self.before} to {self.after} in version {self.version}"
        )


class DatasetMetadata(ABC):
    """A dataset's tables at one moment, whatever their format.

    Attributes:
        original: The description that the dataset was created with.
        tables: Its tables by name, as the format's own library loads them.
    """

    def __init__(self, spec: DatasetSpec, tables: Mapping[str, Any]) -> None:
        self.original, self.tables = spec, dict(tables)

    @cached_property
    def spec(self) -> DatasetSpec:
        """The dataset's description, as its newest version has it."""
        return self.spec_of(self.current)

    @property
    @abstractmethod
    def descriptions(self) -> Mapping[int, str]:
        """Versions from which on the dataset has other columns -> its description from there on, as JSON."""

    @cached_property
    def described(self) -> Mapping[int, DatasetSpec]:
        """``descriptions``, read."""
        name = {"name": self.original.name}
        return {n: DatasetSpec.from_json(text).model_copy(update=name) for n, text in self.descriptions.items()}

    def spec_of(self, version: int) -> DatasetSpec:
        """The dataset's description as a version has it: that of the nearest version it comes from that has its own."""
        first = min(self.described, default=None)
        while first is not None and version >= first:
            if version in self.described:
                return self.described[version]
            version = self.parent(version)
        return self.original

    def parent(self, version: int) -> int:
        """The version that a version was made from; for a rollback, the version it restores."""
        return int(self.claim(version).get("parent", version - 1))

    @cached_property
    def rebucketings(self) -> tuple[Rebucketing, ...]:
        """Versions that have another number of user buckets than those before them, oldest first.

        Numbers of buckets, files that were staged and parts of runs mean something on one side of each alone.
        """
        published = (n for n in sorted(self.described) if n <= self.current and n not in self.abandoned)
        counts = ((n, self.spec_of(self.parent(n)).buckets, self.described[n].buckets) for n in published)
        return tuple(Rebucketing(n, before, after) for n, before, after in counts if before != after)

    def rebucketed(self, since: int) -> Rebucketing | None:
        """The first such version after another one."""
        return next((found for found in self.rebucketings if found.version > since), None)

    @property
    def anchor(self) -> Any:
        """The table that describes the dataset."""
        return self.tables[self.original.anchor.name]

    @property
    @abstractmethod
    def version_numbers(self) -> list[int]:
        """Published versions, oldest first."""

    @property
    @abstractmethod
    def pending(self) -> int | None:
        """A version that is decided but not yet complete."""

    @property
    @abstractmethod
    def abandoned(self) -> Mapping[int, bool]:
        """Versions that were decided and given up -> whether every trace of them is gone; no number is used again."""

    @property
    def following(self) -> int:
        """The number that the next version gets."""
        return max((self.current, *self.abandoned)) + 1

    @property
    def half_abandoned(self) -> int | None:
        """A version that is given up, of which something is left to undo."""
        return next((version for version, whole in sorted(self.abandoned.items()) if not whole), None)

    @abstractmethod
    def members(self, version: int) -> Members | None:
        """What a version's claim said of its tables; ``None`` for one that was decided before claims named them."""

    @abstractmethod
    def snapshots(self, version: int) -> dict[str, int]:
        """Table name -> snapshot id of one published version, anchor first."""

    def has_other_lists(self, before: Mapping[str, int]) -> bool:
        """Whether users' lists of the newest version are others than those of some snapshots (table -> snapshot id)."""
        now = self.snapshots(self.current)
        return any(before.get(group.table) != now.get(group.table) for group in self.spec.events)

    @property
    @abstractmethod
    def identity(self) -> str:
        """What tells this dataset from every other one, also of its name; a rename changes nothing of it."""

    @property
    @abstractmethod
    def erasures(self) -> Mapping[str, str]:
        """Run of an erasure -> what is kept of it (``Erasure.remember``)."""

    @abstractmethod
    def properties(self, table: str) -> Mapping[str, str]:
        """A table's properties now."""

    @abstractmethod
    def location(self, table: str) -> str:
        """A table's folder, a path or an address."""

    @abstractmethod
    def claim(self, version: int) -> dict[str, str]:
        """The facts of the run that decided a version, prefix stripped; empty when no longer kept."""

    @abstractmethod
    def rows(self, version: int) -> dict[str, int]:
        """Rows of each table of a version, those that deletion vectors hide left out, where the catalog knows them."""

    @abstractmethod
    def definition(self, version: int, table: str) -> str | None:
        """The feature group that a table holds in a version, as JSON."""

    @abstractmethod
    def changed_cells(self, table: str, old: int | None, new: int, columns: Collection[str] | None = None) -> set[Cell]:
        """Where a table's rows changed between two of its snapshots (``None``: before the first).

        Args:
            table: The table.
            old, new: The snapshots.
            columns: Names in lower case: changes that are known to be of other columns alone are passed over; ``None``
                takes all.
        """

    @abstractmethod
    def stored_cells(self, table: str, snapshot_id: int) -> set[Cell]:
        """Where a snapshot of a table has rows."""

    @abstractmethod
    def columns(self, table: str, snapshot_id: int) -> tuple[str, ...]:
        """A table's columns as a snapshot has them, without those that readers leave out; it may have more by now."""

    @abstractmethod
    def totals(self, table: str, snapshot_id: int) -> Totals:
        """What a snapshot of a table holds."""

    @abstractmethod
    def added(self, table: str, snapshot_id: int) -> Added:
        """What a published snapshot of a table brought, beside the one before it."""

    @abstractmethod
    def is_free(self, table: str) -> bool:
        """Whether no version, and no pin, names a table, and it holds no file: a new group may have it."""

    @abstractmethod
    def pins(self, version: int) -> tuple[str, ...]:
        """Labels that keep a version from expiry."""

    @property
    @abstractmethod
    def samples(self) -> Mapping[str, str]:
        """Named sample -> its record."""

    @property
    @abstractmethod
    def stored_users(self) -> StoredUsers:
        """The stored users of named samples."""

    @abstractmethod
    def share_of_files(
        self, table: str, snapshot_id: int, dates: tuple[date | None, date | None], buckets: Collection[int]
    ) -> FileShare:
        """The files of a snapshot that may hold rows of some dates and user buckets, from metadata alone.

        Args:
            table: The table.
            snapshot_id: The snapshot.
            dates: First and last event date; ``None`` for no bound.
            buckets: User buckets; none given stand for all.
        """

    @abstractmethod
    def may_hold(self, table: str, snapshot_id: int, first: date, last: date) -> bool:
        """Whether a snapshot has a file that may hold rows of the event dates from the first to the last, from metadata
        alone."""

    @property
    def current(self) -> int:
        """The newest published version; 0 when nothing was published yet."""
        return self.version_numbers[-1] if self.version_numbers else 0

    def role(self, table: str) -> str | None:
        """What a table is for, as its property says."""
        return self.properties(table).get(ROLE_PROPERTY)

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
                f"the dataset {self.spec.name} has no version {'yet' if version is None else repr(version)}",
                expected=f"{numbers[0]} to {numbers[-1]}" if numbers else "a first write",
                fix="List them with: dedup-storage versions list.",
            )
        return version

    def lineage(self, version: int) -> list[int]:
        """The version and those whose content it contains, newest first; a rollback leads to what it restores."""
        line = []
        while version > 0:
            line.append(version)
            version = self.parent(version)
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
        return VersionInfo(
            version=version,
            run_id=facts.pop("run-id", ""),
            job=facts.pop("job", ""),
            created_ms=int(facts.pop("created-ms", 0)),
            parent=int(facts.pop("parent", version - 1)),
            snapshots=self.snapshots(version),
            rows=self.rows(version),
            pins=self.pins(version),
            summary=facts,
        )


class Catalog(Protocol):
    """The datasets of one configuration, whatever their format; no Spark.

    Attributes:
        sets_level: Whether a table's properties set the compression level and the page version of its files.
    """

    sets_level: bool

    def datasets(self) -> list[str]:
        """Their names."""

    def find(self, dataset: str) -> DatasetMetadata | None:
        """A dataset's tables, or ``None`` when there is no such dataset."""

    def load(self, dataset: str) -> DatasetMetadata:
        """A dataset's tables.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
        """

    def state(self, table: str) -> int | None:
        """The newest state of any table that changed its rows, ``namespace.table``; ``None`` where there is none."""
