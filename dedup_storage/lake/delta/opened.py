"""Delta tables as one lake has opened them: a log is read once for each version of its table that somebody asks for.

To open a table its log is read, from the last checkpoint on; jobs look at a dataset's tables a dozen times. A version
never changes, so what was read of it holds as long as the table is the same. The file of its commit says so: a table
that was made anew under its name has another one. And it says which version is the newest: commits are numbered
without a gap, so the one that was the newest is so still while no file has the next number.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import pyarrow as pa
import pyarrow.fs as pafs

from dedup_storage.lake.delta.open import load_delta
from dedup_storage.lake.folders import open_folder

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["OpenedTables", "opened_tables"]

# What is kept: this many versions, which name this many files between them, about a kilobyte each.
_MOST_VERSIONS, _MOST_FILES = 256, 100_000


@dataclass
class _Kept:
    """A table at a version.

    Attributes:
        table: It, as it was opened.
        commit: Bytes and time of the file of its commit.
        files: How many files it has.
        rows: All its rows, once somebody asked for them.
    """

    table: DeltaTable
    commit: tuple[int, int]
    files: int
    rows: pa.Table | None = None


class OpenedTables:
    """Opens Delta tables, each version of one once.

    Args:
        options: Of ``deltalake``.
        store: Catalog properties, by which the files of commits are looked for.
    """

    def __init__(self, options: Mapping[str, str] | None = None, store: Mapping[str, str] | None = None) -> None:
        self._options, self._store = dict(options or {}), dict(store or {})
        # (table, version), those asked for last at the end.
        self._kept: OrderedDict[tuple[str, int], _Kept] = OrderedDict()
        self._newest: dict[str, int] = {}
        self._lock = Lock()

    def __reduce__(self) -> Any:
        # In another process the tables are opened anew.
        return OpenedTables, (self._options, self._store)

    def load(self, uri: str, version: int | None = None) -> DeltaTable:
        """A table at a Delta version (``None``: the newest), not to be changed: others are given the same.

        Raises:
            StorageError: it cannot be read.
        """
        return self._find(uri, version)[0]

    def rows(self, uri: str) -> pa.Table:
        """All rows of the newest version of a small table.

        Raises:
            StorageError: it cannot be read.
        """
        table, kept = self._find(uri, None)
        if kept is None:
            return table.to_pyarrow_table()
        if kept.rows is None:
            kept.rows = table.to_pyarrow_table()
        return kept.rows

    def take(self, uri: str) -> DeltaTable:
        """The newest version of a table for a change: nobody is given it after that, and who has it is done with it.

        Raises:
            StorageError: it cannot be read.
        """
        with self._lock:
            number = self._newest.pop(uri, -1)
            kept = self._kept.pop((uri, number), None)
        if kept is not None and self._holds(uri, number, kept, last=True):
            return kept.table
        return load_delta(uri, self._options)

    def _find(self, uri: str, version: int | None) -> tuple[DeltaTable, _Kept | None]:
        with self._lock:
            number = self._newest.get(uri, -1) if version is None else version
            kept = self._kept.get((uri, number))
            if kept is not None:
                self._kept.move_to_end((uri, number))
        if kept is not None and self._holds(uri, number, kept, last=version is None):
            return kept.table, kept
        table = load_delta(uri, self._options, version)
        return table, self._keep(uri, table, newest=version is None)

    def _holds(self, uri: str, number: int, kept: _Kept, *, last: bool) -> bool:
        now, later = self._commits(uri, (number, number + 1) if last else (number,))
        return now == kept.commit and later is None

    def _keep(self, uri: str, table: DeltaTable, *, newest: bool) -> _Kept | None:
        number = int(table.version())
        commit, _ = self._commits(uri, (number,))
        if commit is None:
            # A log that was cleaned up tells of the version by a checkpoint alone.
            return None
        kept = _Kept(table, commit, len(table.file_uris()))
        with self._lock:
            self._kept[uri, number] = kept
            self._kept.move_to_end((uri, number))
            if newest:
                self._newest[uri] = number
            files = sum(each.files for each in self._kept.values())
            while len(self._kept) > 1 and (len(self._kept) > _MOST_VERSIONS or files > _MOST_FILES):
                files -= self._kept.popitem(last=False)[1].files
        return kept

    def _commits(self, uri: str, numbers: tuple[int, ...]) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """Bytes and time of the files of one commit, or of two; ``None`` where there is no file."""
        filesystem, folder = open_folder(f"{uri.rstrip('/')}/_delta_log", self._store)
        try:
            infos = filesystem.get_file_info([f"{folder}/{number:020}.json" for number in numbers])
        except OSError:
            # The table is opened anew then, and its own client says what is wrong.
            return None, None
        found = [(i.size, i.mtime_ns) if i.type is pafs.FileType.File else None for i in infos]
        return found[0], found[1] if len(found) > 1 else None


_SHARED: WeakValueDictionary[tuple[tuple[str, str], ...], OpenedTables] = WeakValueDictionary()
_sharing = Lock()


def opened_tables(options: Mapping[str, str], store: Mapping[str, str]) -> OpenedTables:
    """What opens the tables of a store for everybody in this process: a run's own session among them.

    Args:
        options, store: As for ``OpenedTables``.
    """
    key = (*sorted(options.items()), ("", ""), *sorted(store.items()))
    with _sharing:
        found = _SHARED.get(key)
        if found is None:
            found = _SHARED[key] = OpenedTables(options, store)
        return found
