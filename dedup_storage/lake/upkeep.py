"""What maintenance and erasure ask of a table format, and what they tell of its tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict, Field

from dedup_storage.lake.history import DatasetMetadata, VersionInfo
from dedup_storage.layout import TableRole

if TYPE_CHECKING:
    from dedup_storage.lake.stored_rows import Seen

__all__ = [
    "COMING_AND_GOING",
    "DAY_MS",
    "Erasure",
    "Found",
    "Outdated",
    "OvertakenError",
    "Policy",
    "Remains",
    "TableErasure",
    "TableExpiry",
    "Upkeep",
    "remains_of",
]

DAY_MS = 86_400_000
# Tables that some versions have and others have not: feature groups, late labels, rows set aside. Where every version
# that had one is gone, nobody can bring its rows back.
COMING_AND_GOING = frozenset({TableRole.FEATURES, TableRole.LABELS, TableRole.QUARANTINE})


class Policy(BaseModel):
    """Which versions stay, and how long leftovers do.

    Attributes:
        keep_versions: The newest so many.
        keep_days: All of the last so many days.
        orphan_days: Staged data and files that nothing names stay so long, since a run may be about to name them.
        abandoned_days: Branches of runs that stopped and did nothing for so long are dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_versions: int = Field(default=10, ge=1)
    keep_days: float = Field(default=7.0, ge=0)
    orphan_days: float = Field(default=3.0, ge=1)
    abandoned_days: float = Field(default=7.0, ge=0)

    def outdated(self, meta: DatasetMetadata, now_ms: int, coming: int = 0) -> list[VersionInfo]:
        """Versions that are neither among the newest, nor young, nor pinned; oldest first.

        Args:
            meta: The dataset.
            now_ms: Now, in milliseconds since the epoch.
            coming: Versions that are about to be published, which count among the newest.
        """
        young = now_ms - self.keep_days * DAY_MS
        numbers = meta.version_numbers
        older = (meta.info(number) for number in numbers[: max(len(numbers) + coming - self.keep_versions, 0)])
        return [info for info in older if info.created_ms < young and not info.pins]


class TableExpiry(BaseModel):
    """What expiry and the removal of orphans took from one table.

    Attributes:
        snapshots: Iceberg snapshots.
        expired_files: Files that only expired versions named (Delta; Iceberg counts snapshots).
        orphan_files: Files that nothing named.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    snapshots: int
    orphan_files: int
    expired_files: int = 0


@dataclass(frozen=True)
class Outdated:
    """What a policy lets go.

    Attributes:
        versions: Oldest first.
        branches: (table, branch) of runs that stopped long ago and never went on; of rows that they staged, the hold
            (Iceberg) or the attempt (Delta).
    """

    versions: tuple[int, ...] = ()
    branches: tuple[tuple[str, str], ...] = ()


class Upkeep(Protocol):
    """Maintenance of one dataset's tables, under one policy, as they were when this was made."""

    def stored_bytes(self) -> int:
        """Bytes of all files that the tables name; one that is named several times counts once."""

    def outdated(self, coming: int = 0) -> Outdated:
        """What the policy lets go; a pinned version stays, and one that a run at work began at.

        Args:
            coming: Versions that the same maintenance would publish before, where it does not.
        """

    def expire(self, outdated: Outdated) -> Outdated:
        """Drop the branches, then take the versions' names; from here on they are none.

        Returns:
            What went: a version that was pinned meanwhile stays.
        """

    def clean(self, outdated: Outdated | None, *, orphans: bool, dry_run: bool) -> tuple[TableExpiry, ...]:
        """Remove from every table what nothing needs any more.

        Args:
            outdated: What was expired, or in a dry run would be; ``None`` where nothing is to expire.
            orphans: Whether files that nothing names for long enough go too.
            dry_run: Count, change nothing.
        """


class TableErasure(BaseModel):
    """One table.

    Attributes:
        rows: Rows of the users in the current version.
        files: Data files, of all kept versions, that held such rows.
        snapshots_rewritten: Kept snapshots with such rows, which are made anew without them.
        files_read: Parquet files that the final scan looked into, named or not; ``None`` in a dry run.
        rows_left: Rows of the users that it found in them; ``None`` in a dry run.
        unreadable_files: Files that are no whole Parquet file, so that nobody knows what they hold; ``None`` in a dry
            run.
        bounds_left: Entries of manifests (Iceberg) or of the log (Delta) that still have one of the users as the least
            or the greatest id of a file; ``None`` in a dry run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    rows: int
    files: int
    snapshots_rewritten: int = 0
    files_read: int | None = None
    rows_left: int | None = None
    unreadable_files: int | None = None
    bounds_left: int | None = None


class OvertakenError(Exception):
    """Another run published since the users' rows were looked for; nothing was erased, look again."""


@dataclass(frozen=True)
class Found:
    """Where users have rows, before anything is erased.

    Attributes:
        version: The current version.
        tables: One entry for each table with the user column.
        staged: Tables in which runs have staged rows of theirs.
        users: Those of the users that have rows in any file of the tables.
        versions: Kept versions with rows of theirs.
    """

    version: int
    tables: Mapping[str, TableErasure]
    staged: tuple[str, ...] = ()
    users: int = 0
    versions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Remains:
    """What one table still has of some users.

    Attributes:
        files: Parquet files looked into: those that kept versions name, and whatever else lies in the table's folder.
        unreadable: Files that are no whole Parquet file.
        bounds: Entries of manifests or of the log that have one of the users as a bound.
        versions: Version -> rows of theirs in files that it names.
        unnamed: Rows of theirs in files that no version names.
    """

    files: int = 0
    unreadable: int = 0
    bounds: int = 0
    versions: Mapping[int, int] = field(default_factory=dict)
    unnamed: int = 0
    rows: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was found, in files that all could be read."""
        return not (self.rows or self.unreadable or self.bounds)


def remains_of(
    meta: DatasetMetadata, table: str, seen: Seen, named: Mapping[str, Collection[int]], bounds: int
) -> Remains:
    """What was seen in a table's files, by the versions that name these.

    Args:
        meta: The dataset.
        table: The table.
        seen: What was seen.
        named: Place of each file that kept snapshots name -> those snapshots.
        bounds: See ``Remains``.
    """
    snapshots = {place.rpartition("/")[2]: held for place, held in named.items()} if seen.rows else {}
    versions: dict[int, int] = {}
    unnamed = 0
    for name, rows in seen.rows.items():
        held = snapshots.get(name, ())
        holders = [v for v in meta.version_numbers if meta.snapshots(v).get(table) in held]
        for version in holders:
            versions[version] = versions.get(version, 0) + rows
        unnamed += 0 if holders else rows
    total = sum(seen.rows.values())
    return Remains(seen.files, len(seen.unreadable), bounds, dict(sorted(versions.items())), unnamed, total)


class Erasure(Protocol):
    """The erasure of some users from one dataset. Each step finds by itself what is left to do."""

    def begin(self, stopped: Collection[str] = ()) -> None:
        """Remove what killed attempts left in others' way.

        Args:
            stopped: Runs of erasures that were begun and not finished, beside this one.
        """

    def find(self) -> Found:
        """Look for the users' rows in the current version and in every kept one."""

    def remember(self, text: str) -> None:
        """Keep what is known of the run with the dataset, in place of what was (``DatasetMetadata.erasures``)."""

    def make_anew(self) -> None:
        """Publish a version without the users, and make every kept one anew.

        Raises:
            OvertakenError: another run published since ``find``.
            ConflictError: the same, after something was changed; the same run goes on from there.
        """

    def remove(self) -> None:
        """Remove what no kept version needs, the users' files among it, and vocabularies counted from them."""

    def remains(self) -> Mapping[str, Remains]:
        """Table -> what is there of the users now, in files, manifests and logs; changes nothing."""
