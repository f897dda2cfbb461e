"""What maintenance and erasure ask of a table format, and what they tell of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from dedup_storage.lake.history import DatasetMetadata, VersionInfo

__all__ = [
    "DAY_MS",
    "Erasure",
    "Found",
    "MadeAnew",
    "Outdated",
    "OvertakenError",
    "Policy",
    "TableErasure",
    "TableExpiry",
    "Upkeep",
]

DAY_MS = 86_400_000


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

    def outdated(self, meta: DatasetMetadata, now_ms: int) -> list[VersionInfo]:
        """Versions that are neither among the newest, nor young, nor pinned; oldest first."""
        young = now_ms - self.keep_days * DAY_MS
        older = (meta.info(number) for number in meta.version_numbers[: -self.keep_versions])
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
        branches: (table, branch) of runs that stopped long ago and never went on.
    """

    versions: tuple[int, ...] = ()
    branches: tuple[tuple[str, str], ...] = ()


class Upkeep(Protocol):
    """Maintenance of one dataset's tables, under one policy, as they were when this was made."""

    def stored_bytes(self) -> int:
        """Bytes of all files that the tables name; one that is named several times counts once."""

    def outdated(self) -> Outdated:
        """What the policy lets go; a pinned version stays, and one that a run at work began at."""

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
        snapshots_rewritten: Kept snapshots with such rows that were made anew without them.
        rows_left: Rows of the users that the final scan found in the table's files; ``None`` in a dry run.
        snapshots_left: On Iceberg, kept snapshots whose manifests list removed files, with bounds that may be ids; on
            Delta, files that the log gives one of the users as a bound of. ``None`` in a dry run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    rows: int
    files: int
    snapshots_rewritten: int = 0
    rows_left: int | None = None
    snapshots_left: int | None = None


class OvertakenError(Exception):
    """Another run published since the users' rows were looked for; nothing was erased, look again."""


@dataclass(frozen=True)
class Found:
    """Where users have rows, before anything is erased.

    Attributes:
        version: The current version.
        tables: One entry for each table with the user column.
        staged: Tables in which runs have staged rows of theirs.
    """

    version: int
    tables: Mapping[str, TableErasure]
    staged: tuple[str, ...] = ()


@dataclass(frozen=True)
class MadeAnew:
    """Kept content that was made anew without the users.

    Attributes:
        snapshots: Table -> number of its snapshots that held rows of theirs.
        versions: Published versions among what these snapshots stand for.
    """

    snapshots: Mapping[str, int] = field(default_factory=dict)
    versions: tuple[int, ...] = ()


class Erasure(Protocol):
    """The erasure of some users from one dataset. Each step finds by itself what is left to do."""

    def begin(self) -> None:
        """Remove what a killed attempt of the same run left in others' way."""

    def find(self) -> Found:
        """Look for the users' rows in the current version and in every kept one."""

    def make_anew(self) -> MadeAnew:
        """Publish a version without the users, and make every kept one anew.

        Raises:
            OvertakenError: another run published since ``find``.
            ConflictError: the same, after something was changed; the same run goes on from there.
        """

    def remove(self) -> None:
        """Remove what no kept version needs, the users' files among it."""

    def left(self) -> Mapping[str, tuple[int, int]]:
        """Table -> rows of the users in its files, named or not; places that still tell of them
        (``TableErasure.snapshots_left``)."""
