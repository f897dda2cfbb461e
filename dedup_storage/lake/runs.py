"""Runs: their names, their attempts, and what an attempt has staged."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from dedup_storage.errors import StorageError, UsageError
from dedup_storage.lake.segments import Segment
from dedup_storage.layout import DatasetSpec
from dedup_storage.words import counted

__all__ = [
    "Run",
    "Staged",
    "anew_run",
    "conversion_pin",
    "files_lost",
    "named_run",
    "new_attempt",
    "pins_conversion",
    "staged_gone",
]

_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+@=-]{0,199}")
_CONVERSION = re.compile(r"convert_[0-9a-f]{16}")


@dataclass(frozen=True)
class Run:
    """One attempt of one run.

    Attributes:
        run_id: Given by the user; publishing it twice changes nothing.
        job: Job name.
        attempt: Unique for this attempt; names its staged snapshots.
        base: The version the attempt started from (0: none).
        replaced: Half-open ranges of event dates (ISO) whose rows the run replaces, whole segments each; an empty
            range text stands for no bound; ``None`` for an append.
        buckets: Replace only these user buckets of the ranges; ``None`` for all.
        replaced_tables: Tables in which rows are replaced; others are only appended to. ``None`` for all.
        tables: Tables whose rows the run changes; ``None`` when it does not say, so that it may be any.
        dates: Event dates the run touches; ``None`` when any may be touched.
        segments: Table -> segments whose files the run swaps or marks; ``None`` for a run that only adds rows or
            replaces whole dates. Its staged data lies on the branch ``branch`` of each of these tables.
        reads: Further tables whose rows in these segments the run computed from.
        branch: Name of the branch that holds the run's parts.
        facts: Further facts to keep with the version.
        table_facts: Facts to keep with the snapshots of single tables.
        part: What it stages is laid on a branch at once, and never published as it is: nothing holds it.
        described: The dataset's description from this version on, where it is another one than before.
    """

    run_id: str
    job: str
    attempt: str
    base: int
    replaced: tuple[tuple[str, str], ...] | None = None
    dates: tuple[str, ...] | None = ()
    segments: Mapping[str, frozenset[Segment]] | None = None
    reads: tuple[str, ...] = ()
    branch: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    buckets: tuple[int, ...] | None = None
    replaced_tables: tuple[str, ...] | None = None
    tables: tuple[str, ...] | None = None
    table_facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    part: bool = False
    described: DatasetSpec | None = None

    def replaces(self, table: str) -> bool:
        """Whether rows of a table are replaced."""
        return self.replaced is not None and (self.replaced_tables is None or table in self.replaced_tables)


@dataclass(frozen=True)
class Staged:
    """Data written but not visible to anyone.

    Attributes:
        table: Table name.
        snapshot_id: The staged snapshot.
        parent_id: The snapshot it was made on, ``None`` for an empty table.
        rows, bytes, files: What was added.
        attempt: The attempt that staged it.
    """

    table: str
    snapshot_id: int
    parent_id: int | None
    rows: int
    bytes: int
    files: int
    attempt: str = ""


def anew_run(run_id: str) -> str:
    """The run in which a maintenance run lays users' lists anew."""
    return f"{run_id}-runs"


def conversion_pin(run_id: str) -> str:
    """Label by which a conversion keeps the version that it reads, until it is finished."""
    return f"convert_{sha256(run_id.encode()).hexdigest()[:16]}"


def pins_conversion(label: str) -> bool:
    """Whether a pin is that of a conversion."""
    return _CONVERSION.fullmatch(label) is not None


def new_attempt(run_id: str) -> str:
    """Name of one more attempt of a run."""
    return f"{run_id}/{uuid.uuid4().hex[:12]}"


def named_run(run_id: str | None, job: str) -> str:
    """The run id given, checked; or a new one that begins with the job's name.

    Raises:
        UsageError: it could not name a directory.
    """
    if run_id is None:
        return f"{job}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            "the run id cannot be used",
            expected="1 to 200 letters, digits and _ . : + @ = -, starting with a letter, a digit or _",
            got=repr(run_id[:80]),
        )
    return run_id


def staged_gone(table: str, run_id: str) -> StorageError:
    """The error for rows that a run has staged and does not find again."""
    return StorageError(
        f"the staged data of table {table} of run {run_id} is gone: an erasure, or another tool's expiry, has taken it",
        fix="Nothing was published. Run the job again with the same run id.",
    )


def files_lost(table: str, run_id: str, lost: Sequence[tuple[str, str]]) -> StorageError:
    """The error for staged files that another tool removed or changed.

    Args:
        table: Dataset and table.
        run_id: The run.
        lost: Place of each such file, and what was found there.
    """
    place, found = lost[0]
    return StorageError(
        f"{counted(len(lost), 'file', 'is')} not as written, of those that the run {run_id} staged in {table}",
        expected=f"the file {place}",
        got=found,
        fix="Nothing was published. See which tool removes files of this table that are younger than the run (on Delta "
        "VACUUM with a short retention does), then run the job again.",
    )
