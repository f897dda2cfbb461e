"""Staged files of Delta tables: what an attempt wrote, kept beside the tables until its version names it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, TypeVar
from urllib.parse import unquote

from dedup_storage.lake.folders import changed_files, delete_files, delete_folder, list_files, read_text, write_text

__all__ = ["RUNS_FOLDER", "STAGED_FOLDER", "StagedFiles", "StagedStore"]

Described = TypeVar("Described")

STAGED_FOLDER = "_staged"
# Parts of runs that work in parts.
RUNS_FOLDER = "_runs"
_DESCRIPTION = ".json"
# Beside an attempt's descriptions: somebody is taking back what it staged, and nobody may publish it any more.
_TAKEN_BACK = "taken-back"


@dataclass(frozen=True)
class StagedFiles:
    """What an attempt staged in one table.

    Attributes:
        table: Table name.
        actions: Delta's actions that add the files, as JSON.
        replaced: Half-open ranges of event dates (ISO) whose files they replace; ``None`` for an append.
        buckets: Only these user buckets of the ranges; ``None`` for all.
        facts: Facts to keep with the table's part of the version.
        removed: Places of files that they replace one by one, all of which must be there.
        borrowed: The files belong to a run's branch as well, which goes on without this attempt.
        generated: Generated columns that are made by other expressions from here on: column -> SQL.
    """

    table: str
    actions: tuple[str, ...] = ()
    replaced: tuple[tuple[str, str], ...] | None = None
    buckets: tuple[int, ...] | None = None
    facts: Mapping[str, str] | None = None
    removed: tuple[str, ...] = ()
    borrowed: bool = False
    generated: Mapping[str, str] | None = None

    def _adds(self) -> list[Mapping[str, Any]]:
        return [json.loads(a)["add"] for a in self.actions]

    @property
    def paths(self) -> list[str]:
        """Places of the files in the table's folder."""
        return [str(a["path"]) for a in self._adds()]

    @property
    def sizes(self) -> dict[str, int]:
        """Place of each file in the table's folder -> its bytes."""
        return {unquote(str(a["path"])): int(a["size"]) for a in self._adds()}

    @property
    def rows(self) -> int:
        """Rows of the files."""
        return sum(int(json.loads(a["stats"])["numRecords"]) for a in self._adds())

    @property
    def size_bytes(self) -> int:
        """Bytes of the files."""
        return sum(int(a["size"]) for a in self._adds())


class StagedStore:
    """Descriptions of staged files, one small file for each attempt and table.

    Args:
        uri: The dataset's folder.
        properties: Catalog properties.
    """

    def __init__(self, uri: str, properties: Mapping[str, str]) -> None:
        self.uri, self._properties = uri, properties

    def _folder(self, attempt: str) -> str:
        # A run id may hold characters that paths may not.
        return f"{self.uri}/{STAGED_FOLDER}/{sha256(attempt.encode()).hexdigest()[:20]}"

    def put(self, attempt: str, staged: StagedFiles) -> None:
        """Remember what an attempt staged in a table."""
        text = json.dumps({**asdict(staged), "attempt": attempt})
        write_text(self._description(attempt, staged.table), text, self._properties)

    def get(self, attempt: str, table: str) -> StagedFiles | None:
        """What an attempt staged in a table; ``None`` when it is gone, or going."""
        return self._unless_going(attempt, self._read(self._description(attempt, table)))

    def _description(self, attempt: str, table: str) -> str:
        return f"{self._folder(attempt)}/{table}{_DESCRIPTION}"

    def _unless_going(self, attempt: str, found: Described) -> Described | None:
        # Looked at after the description was read; see ``take_back``.
        going = found is not None and read_text(f"{self._folder(attempt)}/{_TAKEN_BACK}", self._properties) is not None
        return None if going else found

    def _read(self, place: str) -> StagedFiles | None:
        text = read_text(place, self._properties)
        if text is None:
            return None
        found = json.loads(text)
        if "groups" in found:
            # Of kept versions that are made anew, the new files alone.
            return StagedFiles(found["table"], tuple(a for g in found["groups"] for a in g["actions"]))
        ranges = found["replaced"]
        return StagedFiles(
            table=found["table"],
            actions=tuple(found["actions"]),
            replaced=None if ranges is None else tuple((low, high) for low, high in ranges),
            buckets=None if found["buckets"] is None else tuple(found["buckets"]),
            facts=found["facts"],
            removed=tuple(found.get("removed", ())),
            borrowed=found.get("borrowed", False),
            generated=found.get("generated"),
        )

    def lost(self, staged: StagedFiles) -> list[tuple[str, str]]:
        """Files of an attempt in a table that are not there as they were written: place, and what was found."""
        folder = f"{self.uri}/{staged.table}"
        changed = changed_files(folder, staged.sizes, self._properties)
        return [(f"{folder}/{p}", "no file" if size is None else f"{size:,} bytes") for p, size in changed.items()]

    def put_note(self, attempt: str, table: str, text: str) -> None:
        """Remember what an attempt is to do to a table beside adding and replacing files: a JSON object."""
        noted = json.dumps({**json.loads(text), "attempt": attempt})
        write_text(self._description(attempt, table), noted, self._properties)

    def read_note(self, attempt: str, table: str) -> str | None:
        """What ``put_note`` remembered, and the attempt; ``None`` when it is gone, or going."""
        return self._unless_going(attempt, read_text(self._description(attempt, table), self._properties))

    def attempts(self) -> dict[str, int]:
        """Attempts that have staged something -> when they began, in milliseconds since the epoch (UTC)."""
        found: dict[str, int] = {}
        for file in list_files(f"{self.uri}/{STAGED_FOLDER}", self._properties):
            if not file.base_name.endswith(_DESCRIPTION):
                continue
            folder = file.path.rsplit("/", 2)[-2]
            text = read_text(f"{self.uri}/{STAGED_FOLDER}/{folder}/{file.base_name}", self._properties)
            attempt = json.loads(text).get("attempt") if text is not None else None
            if attempt is not None:
                since_ms = file.mtime_ns // 1_000_000
                found[attempt] = min(since_ms, found.get(attempt, since_ms))
        return found

    def tables(self, attempt: str) -> list[str]:
        """Tables that an attempt staged something in."""
        found = list_files(self._folder(attempt), self._properties)
        return sorted(f.base_name.removesuffix(_DESCRIPTION) for f in found if f.base_name.endswith(_DESCRIPTION))

    def paths(self, table: str, newer_than_ms: float = 0) -> list[str]:
        """Places of the staged files of a table, of attempts that were described after a moment."""
        staged = map(self._read, self._described(table, newer_than_ms))
        return [path for each in staged if each is not None for path in each.paths]

    def drop_lost(self, table: str, there: Collection[str]) -> None:
        """Remove the descriptions whose files are gone: what was staged can no longer be published.

        Args:
            table: Of this table alone.
            there: Places of the files that are in its folder.
        """
        for place in self._described(table):
            staged = self._read(place)
            if staged is not None and staged.paths and set(staged.paths).isdisjoint(there):
                folder, name = place.rsplit("/", 1)
                delete_files(folder, [name], self._properties)

    def _described(self, table: str, newer_than_ms: float = 0) -> list[str]:
        root = f"{self.uri}/{STAGED_FOLDER}"
        name, oldest = f"{table}{_DESCRIPTION}", newer_than_ms * 1e6
        files = [f for f in list_files(root, self._properties) if f.base_name == name and f.mtime_ns >= oldest]
        return [f"{root}/{f.path.rsplit('/', 2)[-2]}/{name}" for f in files]

    def forget(self, attempt: str) -> None:
        """Remove the descriptions; the files stay."""
        delete_folder(self._folder(attempt), self._properties)

    def forget_done(self, decided: Mapping[str, int], pending: int | None) -> None:
        """Remove the descriptions of attempts whose versions are complete: their runs were killed just after that.

        Args:
            decided: Attempt -> the version that it decided.
            pending: The one that is not complete.
        """
        for attempt in self.attempts():
            if decided.get(attempt, pending) != pending:
                self.forget(attempt)

    def discard(self, attempt: str) -> None:
        """Remove an attempt's files and their descriptions; of a run that is at work, see ``take_back``."""
        for table in self.tables(attempt):
            staged = self._read(self._description(attempt, table))
            if staged is not None and not staged.borrowed:
                delete_files(f"{self.uri}/{table}", staged.paths, self._properties)
        self.forget(attempt)

    def take_back(self, attempt: str, decided: Callable[[], bool]) -> list[str]:
        """Remove what an attempt staged, whose run may be at work and decide its version in this moment.

        Whoever completes a version reads what is staged after it was decided, and looks whether that is going. So first
        it is marked as going, then it is looked whether the attempt decided a version: one that did so later finds
        nothing, and no version names a file that is removed here.

        Args:
            attempt: The attempt.
            decided: Looks whether it has decided a version.

        Returns:
            The tables; none where it has, which then keeps everything.
        """
        tables = self.tables(attempt)
        if not tables:
            return []
        write_text(f"{self._folder(attempt)}/{_TAKEN_BACK}", "", self._properties)
        if decided():
            delete_files(self._folder(attempt), [_TAKEN_BACK], self._properties)
            return []
        self.discard(attempt)
        return tables
