"""What is done to a whole dataset without Spark, whatever the format of its tables: describe, pin, drop, rename."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import pyarrow.fs as pafs
from pydantic import BaseModel, ConfigDict

from dedup_storage.config import Settings
from dedup_storage.errors import DatasetExistsError, DatasetNotFoundError, UsageError, VersionNotFoundError
from dedup_storage.lake.folders import open_folder
from dedup_storage.lake.groups import feature_groups
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.status import PublicationStatus
from dedup_storage.schema import check_name

__all__ = ["Admin", "DatasetDescription", "DropSummary", "RenameSummary", "delete_if_empty", "describe"]

# Staged data of a run younger than this may be of one that is at work: milliseconds.
RECENT_MS = 24 * 60 * 60 * 1000


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetDescription(_Frozen):
    """A dataset as its metadata tells it; no data file is opened.

    Attributes:
        name: Its name.
        format: ``iceberg`` or ``delta``.
        layout: ``split``, ``user`` or ``flat``.
        date_grain: Date part of a segment.
        buckets: User part of a segment.
        epoch_grain: Layout ``user``: by what events are partitioned beside buckets.
        adopted: The log lies as it was found.
        version: The newest version, 0 before the first.
        versions: How many versions are kept.
        published_ms: When the newest was published, in milliseconds since the epoch (UTC).
        rows: Table of the newest version -> its rows.
        bytes: Stored bytes of the newest version's tables.
        files: Their data files.
        pinned: Labels of pins, of all versions.
        features: Feature groups of the newest version.
        samples: Named samples.
        location: Where the table that describes the dataset lies.
        columns: Columns of the log.
        added: Those that a version brought after the first -> that version.
    """

    name: str
    format: str
    layout: str
    date_grain: str
    buckets: int
    epoch_grain: str | None
    adopted: bool
    version: int
    versions: int
    published_ms: int | None
    rows: dict[str, int]
    bytes: int
    files: int
    pinned: tuple[str, ...]
    features: tuple[str, ...]
    samples: tuple[str, ...]
    location: str
    columns: tuple[str, ...] = ()
    added: dict[str, int] = {}


class DropSummary(_Frozen):
    """What a drop removed.

    Attributes:
        dataset: The dataset's name.
        tables: Its tables.
        folders: Folders that were removed with every file in them.
        kept: What stays of a log that was adopted: the metadata file of its table, or its folder.
        dry_run: Nothing was done: what would be.
    """

    dataset: str
    tables: tuple[str, ...]
    folders: tuple[str, ...]
    kept: tuple[str, ...] = ()
    dry_run: bool = False


class RenameSummary(_Frozen):
    """What a rename moved.

    Attributes:
        dataset: The name from now on.
        former: The name until now.
        tables: The dataset's tables.
        dry_run: Nothing was done: what would be.
    """

    dataset: str
    former: str
    tables: tuple[str, ...]
    dry_run: bool = False


Metadata = TypeVar("Metadata", bound=DatasetMetadata)
MetadataOf = TypeVar("MetadataOf", bound=DatasetMetadata, covariant=True)


class Catalog(Protocol[MetadataOf]):
    """Datasets of one configuration, read without Spark."""

    settings: Settings

    def datasets(self) -> list[str]:
        """Names of the datasets."""

    def find(self, dataset: str) -> MetadataOf | None:
        """A dataset's tables, or ``None`` when there is no such dataset."""

    def load(self, dataset: str) -> MetadataOf:
        """A dataset's tables."""

    def missing(self, dataset: str) -> DatasetNotFoundError:
        """The error for a dataset that is not there, or was left half done."""


class Admin(ABC, Generic[Metadata]):
    """Datasets of one configuration as wholes.

    Args:
        lake: Where they are.

    Attributes:
        format: ``iceberg`` or ``delta``.
    """

    format: ClassVar[str]
    lake: Catalog[Metadata]

    @property
    def commits(self) -> bool:
        """Whether datasets can be changed here without Spark; if not, they can be read."""
        return True

    def datasets(self) -> list[str]:
        """Names of the datasets."""
        return self.lake.datasets()

    def load(self, name: str) -> Metadata:
        """A dataset's tables and versions.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
        """
        return self.lake.load(check_name(name, "dataset name"))

    def describe(self, name: str) -> DatasetDescription:
        """A dataset as its metadata tells it."""
        return describe(self.load(name), self.format, self.location(name))

    @abstractmethod
    def status(self, name: str) -> PublicationStatus:
        """What is under way on a dataset."""

    @abstractmethod
    def location(self, name: str) -> str:
        """Where the table that describes a dataset lies."""

    def pin(self, name: str, version: int | None, label: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Keep a version through expiry; what names it for good, as plain values for a JSON file.

        Args:
            name: The dataset.
            version: ``None`` takes the newest.
            label: Name of the pin.
            dry_run: Say what would be pinned; change nothing.

        Raises:
            VersionNotFoundError: there is no such version.
        """
        check_name(label, "pin label")
        meta = self.load(name)
        version = meta.resolve(version)
        if not dry_run:
            self._pin(meta, version, label)
        return {"dataset": name, "version": version, "label": label, "snapshots": meta.snapshots(version)}

    def unpin(self, name: str, label: str, *, dry_run: bool = False) -> list[int]:
        """Let expiry have a pinned version again; gives the versions that had the label.

        Args:
            name: The dataset.
            label: Name of the pin.
            dry_run: Say what would be unpinned; change nothing.

        Raises:
            VersionNotFoundError: no version is pinned under that label.
        """
        check_name(label, "pin label")
        meta = self.load(name)
        pinned = [version for version in meta.version_numbers if label in meta.pins(version)]
        if not pinned:
            raise VersionNotFoundError(
                f"no version of {name} is pinned as {label}", fix="See the pins with: dedup-storage versions list."
            )
        for version in () if dry_run else pinned:
            self._unpin(meta, version, label)
        return pinned

    @abstractmethod
    def _pin(self, meta: Metadata, version: int, label: str) -> None: ...

    @abstractmethod
    def _unpin(self, meta: Metadata, version: int, label: str) -> None: ...

    @abstractmethod
    def busy(self, meta: Metadata) -> list[str]:
        """What shows that runs are at work on a dataset, or were stopped there, in words."""

    @abstractmethod
    def drop(self, name: str, *, force: bool = False, dry_run: bool = False) -> DropSummary:
        """Remove a dataset: its tables, and every file in their folders. A drop that was stopped is finished.

        The files of a log that was adopted stay.

        Args:
            name: The dataset.
            force: Also when runs are at work on it or versions are pinned.
            dry_run: Say what would be removed, or why nothing would be; change nothing.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
            UsageError: runs are at work on it, or versions are pinned; nothing was changed.
        """

    @abstractmethod
    def rename(self, name: str, new_name: str, *, force: bool = False, dry_run: bool = False) -> RenameSummary:
        """Give a dataset another name; files stay where they lie, but on Delta. A rename that was stopped is finished.

        Whatever names the dataset elsewhere keeps the old name: lookups of other datasets' feature groups, saved
        states of readers, pins that were written down.

        Args:
            name: The dataset.
            new_name: Its name from now on.
            force: Also when runs are at work on it.
            dry_run: Say what would be renamed, or why nothing would be; change nothing.

        Raises:
            DatasetNotFoundError: names the datasets that do exist.
            DatasetExistsError: the new name is taken.
            UsageError: runs are at work on it, or the format cannot rename there; nothing was changed.
        """

    def _refuse_busy(self, meta: Metadata, force: bool, what: str) -> None:
        found = self.busy(meta)
        if found and not force:
            raise UsageError(
                f"the dataset {meta.spec.name} cannot be {what}: {'; '.join(found)}",
                fix="Nothing was changed. Let the runs finish, or give --force (in Python force=True).",
            )

    def _refuse_pinned(self, meta: Metadata, force: bool) -> None:
        pinned = [f"version {n} as {', '.join(meta.pins(n))}" for n in meta.version_numbers if meta.pins(n)]
        if pinned and not force:
            raise UsageError(
                f"the dataset {meta.spec.name} has pinned versions: {'; '.join(pinned)}",
                fix="Nothing was changed. Unpin them, or give --force (in Python force=True).",
            )

    @staticmethod
    def _check_names(name: str, new_name: str) -> None:
        check_name(name, "dataset name")
        check_name(new_name, "dataset name")
        if name == new_name:
            raise UsageError(f"the dataset {name} has that name already", expected="another name")

    @staticmethod
    def _taken(new_name: str, tables: Collection[str] = ()) -> DatasetExistsError:
        held = f" by the tables {', '.join(sorted(tables))}" if tables else ""
        return DatasetExistsError(f"the name {new_name} is taken{held}", fix="Choose another name.")


def _added(meta: DatasetMetadata) -> dict[str, int]:
    """Columns of the newest version that came after the first -> the version that brought them."""
    line = set(meta.lineage(meta.current)) if meta.described else set()
    found: dict[str, int] = {}
    for version in sorted(line & meta.described.keys(), reverse=True):
        found |= dict.fromkeys(meta.described[version].source_columns, version)
    return {c: version for c, version in found.items() if c not in meta.original.source_columns}


def describe(meta: DatasetMetadata, format: str, location: str) -> DatasetDescription:
    """A dataset as its metadata tells it."""
    spec, current = meta.spec, meta.current
    snapshots = meta.snapshots(current) if current else {}
    totals = {table: meta.totals(table, snapshot) for table, snapshot in snapshots.items()}
    pins: Sequence[str] = [label for version in meta.version_numbers for label in meta.pins(version)]
    return DatasetDescription(
        name=spec.name,
        format=format,
        layout=spec.layout.value,
        date_grain=spec.date_grain.value,
        buckets=spec.buckets,
        epoch_grain=spec.told_epochs,
        adopted=spec.adopted,
        version=current,
        versions=len(meta.version_numbers),
        published_ms=int(meta.claim(current).get("created-ms", 0)) or None if current else None,
        rows={table: total.rows for table, total in totals.items()},
        bytes=sum(total.bytes for total in totals.values()),
        files=sum(total.files for total in totals.values()),
        pinned=tuple(dict.fromkeys(pins)),
        features=tuple(feature_groups(meta, current)),
        samples=tuple(sorted(meta.samples)),
        location=location,
        columns=spec.source_columns,
        added=_added(meta),
    )


def delete_if_empty(uri: str, properties: Mapping[str, str] | None = None) -> None:
    """Delete a folder with nothing in it; an object store has none."""
    filesystem, path = open_folder(uri, properties)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return
    if filesystem.get_file_info(path).type is not pafs.FileType.Directory:
        return
    if not filesystem.get_file_info(pafs.FileSelector(path)):
        filesystem.delete_dir(path)
