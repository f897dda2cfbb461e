"""A run's work in parts, whatever the table format: what is done is stored where no reader looks.

A backfill may take hours. It stores each finished group of segments as a part: files that come and files that go, with
facts that say which segments these were. The parts are the run's progress, and their net change is what it publishes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from dedup_storage.errors import (
    ConflictError,
    DedupStorageError,
    LostRacesError,
    QualityGateError,
    UnreadableFileError,
    UsageError,
)
from dedup_storage.lake.runs import Staged
from dedup_storage.lake.segments import Segment, decode_segments

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = [
    "BASE",
    "BRANCH_PREFIX",
    "PART",
    "RUN_ID",
    "Branch",
    "BranchPart",
    "branch_gone",
    "branch_name",
    "branch_names",
    "goes_on",
    "is_worthless",
]

# Facts of a part beside the request: its segments, the version it was computed from, the run.
PART, BASE, RUN_ID = "part", "base", "run-id"
BRANCH_PREFIX = "run-"
_BRANCH = re.compile(rf"{BRANCH_PREFIX}[0-9a-f]{{20}}")


def branch_name(run_id: str) -> str:
    """Name of a run's branch; a run id may hold characters that SQL identifiers and paths may not."""
    return BRANCH_PREFIX + sha256(run_id.encode()).hexdigest()[:20]


def branch_names(run: str) -> tuple[str, ...]:
    """Names of the branches that a run's id stands for; a branch that says nothing of its run is called by its own."""
    return (branch_name(run), run) if _BRANCH.fullmatch(run) else (branch_name(run),)


def branch_gone(dataset: str, table: str) -> ConflictError:
    """The error for a branch that the same run in another process dropped."""
    return ConflictError(
        f"the branch of this run on {dataset}.{table} is gone", fix="Nothing was published. Run the job again."
    )


def is_worthless(error: DedupStorageError) -> bool:
    """Whether an error says that the finished parts of its run cannot be published: another run changed what they
    rest on, the gate refused them, or the request itself is wrong. All else leaves them to the run's next attempt."""
    passing = isinstance(error, (LostRacesError, UnreadableFileError))
    return isinstance(error, (ConflictError, QualityGateError, UsageError)) and not passing


def goes_on(run_id: str) -> str:
    """Advice for a run that stopped and keeps its parts."""
    return f"The finished parts are kept: the run {run_id} goes on from there when it is run again under this id."


@dataclass(frozen=True)
class BranchPart:
    """One finished part.

    Attributes:
        facts: What it says of itself.
    """

    facts: Mapping[str, str]

    @property
    def segments(self) -> frozenset[Segment]:
        """Segments that it rewrote."""
        found: frozenset[Segment] = frozenset()
        for segments in decode_segments(self.facts.get(PART, "")).values():
            found |= segments or frozenset()
        return found


class Branch(Protocol):
    """One run's work on one table.

    Attributes:
        name: From ``branch_name``.
    """

    name: str

    def exists(self) -> bool:
        """Whether it was begun and not dropped."""

    def begun_at(self) -> int | None:
        """The snapshot of the table that it began at; ``None`` without a part."""

    def parts(self) -> list[BranchPart]:
        """Its parts, oldest first."""

    def open(self, base: int) -> None:
        """Begin at a snapshot; what the branch held before is dropped."""

    def drop(self) -> None:
        """Remove it and the files that only it holds; nothing, where there is none."""

    def swap(self, staged: Staged, removed: Iterable[str], facts: Mapping[str, str]) -> None:
        """Store a part: staged files in place of those at the places named.

        Raises:
            ConflictError: the branch is gone, or another part took one of the files out.
        """

    def merge(
        self,
        values: DataFrame,
        keys: Iterable[str],
        changed: Mapping[str, str],
        segments: Iterable[Segment],
        facts: Mapping[str, str],
    ) -> None:
        """Store a part: rows with new values, the old ones hidden. Only where the format marks rows.

        Args:
            values: Keys and new values.
            keys: Key columns.
            changed: Column of the table -> column of ``values``.
            segments: Where the rows lie.
            facts: Of the part.
        """

    def rows(self) -> DataFrame:
        """The table's rows as the branch would leave them, with the columns that readers leave out."""

    def count(self) -> int:
        """Rows of the table as the branch would leave it, from counts alone."""
