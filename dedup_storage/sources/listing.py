"""The files below a folder or a pattern, and which of them are rows that nobody else accounts for. Pure.

A table's folder holds files that are no rows of it any more: its log alone tells which are. Links may lead nowhere, or
twice to one file.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

import pyarrow.fs as pafs

from dedup_storage.errors import InputError
from dedup_storage.lake.folders import is_hidden
from dedup_storage.lake.retries import is_refusal
from dedup_storage.report.parquet.footers import DataFile

__all__ = ["GLOB", "is_iceberg", "is_passed_over", "listed", "matching", "told_columns"]

GLOB = re.compile(r"[*?\[{]")
_HIVE_KEY = re.compile(r"([^/=]+)=([^/]*)/")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
# How Hadoop ends the name of a file that is being copied.
_UNFINISHED = "._COPYING_"
# Folders and files that a table keeps beside its rows -> whose they are.
_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
_MARK = re.compile(r"^(.*)/(?:(_delta_log|\.hoodie)(?:/.*)?|metadata/[^/]*\.metadata\.json)$")


def is_iceberg(filesystem: pafs.FileSystem, inner: str) -> bool:
    """Whether a folder is an Iceberg table's."""
    entries = filesystem.get_file_info(pafs.FileSelector(f"{inner}/metadata", allow_not_found=True))
    return any(e.base_name.endswith(".metadata.json") for e in entries)


def listed(filesystem: pafs.FileSystem, place: str, inner: str, source: str) -> list[DataFile]:
    """The files below a folder that are not hidden, by path.

    Args:
        filesystem, inner: Where the folder is.
        place: Its absolute path or URI.
        source: As it was given, for messages.

    Raises:
        InputError: some are a table's, whose log tells which of them are rows; a link leads nowhere, or a second time
            to one file; a path tells a column twice.
    """
    found, tables = _below(filesystem, place, inner)
    _refuse_tables(found, tables, filesystem, place, inner, source)
    return found


def matching(
    filesystem: pafs.FileSystem, place: str, inner: str, source: str
) -> tuple[str, tuple[DataFile, ...]] | None:
    """The folder above a pattern, and the files that it names; ``None`` where there is no such file.

    A folder that the pattern names stands for its files, and ``**`` for any number of folders.

    Args, Raises: as ``listed``.
    """
    parts = inner.rstrip("/").split("/")
    first = next((i for i, part in enumerate(parts) if GLOB.search(part)), None)
    if first is None:
        return None
    base = "/".join(parts[:first])
    prefix = place[: len(place) - len(inner)] + base
    try:
        below, tables = _below(filesystem, prefix, base)
    except FileNotFoundError:
        return None
    found = [file for file in below if _names_fit(file.path[len(prefix) :].strip("/").split("/"), parts[first:])]
    _refuse_tables(found, tables, filesystem, prefix, base, source)
    return (prefix, tuple(found)) if found else None


def _names_fit(names: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_names_fit(names[skipped:], pattern[1:]) for skipped in range(len(names) + 1))
    return bool(names) and _fits(names[0], pattern[0]) and _names_fit(names[1:], pattern[1:])


def _fits(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern; ``{a,b}`` names alternatives."""
    group = re.search(r"\{([^{}]*)\}", pattern)
    if group is None:
        return fnmatch.fnmatchcase(name, pattern)
    return any(_fits(name, pattern[: group.start()] + e + pattern[group.end() :]) for e in group.group(1).split(","))


def _below(filesystem: pafs.FileSystem, place: str, inner: str) -> tuple[list[DataFile], dict[str, str]]:
    """The files, and the folders of tables among them with whose they are, both by absolute path or URI."""
    entries = filesystem.get_file_info(pafs.FileSelector(inner, recursive=True))
    found: list[DataFile] = []
    tables: dict[str, str] = {}
    for entry in entries:
        relative = entry.path[len(inner) :]
        mark = _MARK.match(relative)
        if mark is not None:
            tables[place + mark[1]] = _LOGS.get(mark[2], "Iceberg")
        if entry.is_file and not is_hidden(relative) and not relative.endswith(_UNFINISHED):
            found.append(DataFile(place + relative, entry.size, _keys(relative, place), entry.mtime_ns))
    if isinstance(filesystem, pafs.LocalFileSystem):
        folders = [inner, *(e.path for e in entries if e.type is pafs.FileType.Directory)]
        _check_links(inner, folders, [file.path[len(place) :] for file in found])
    return sorted(found, key=lambda f: f.path), tables


def told_columns(relative: str) -> list[tuple[str, str | None]]:
    """Column and value of each folder of a path that tells them, below the folder of all; ``None`` is no value."""
    pairs = _HIVE_KEY.findall(relative.lstrip("/"))
    return [(unquote(key), None if value == _NO_VALUE else unquote(value)) for key, value in pairs]


def is_passed_over(name: str) -> bool:
    """Whether Spark reads no rows of a file of this name, though it is named itself."""
    return is_hidden(name) or name.endswith(_UNFINISHED)


def _keys(relative: str, place: str) -> dict[str, str]:
    """Partition column -> value, of a path below its folder; a column without a value is left out."""
    told = told_columns(relative)
    keys = dict(told)
    if len(keys) < len(told):
        twice = next(key for number, (key, _) in enumerate(told) if key in dict(told[:number]))
        raise InputError(
            f"the path {place}{relative} tells the column {twice} twice",
            expected="one value of it in a path",
            fix="Name the folder below the first one, or rename one of them.",
        )
    return {k: v for k, v in keys.items() if v is not None}


def _check_links(inner: str, folders: Iterable[str], files: Iterable[str]) -> None:
    """Refuse links that would leave rows out, or give them twice."""
    links = [entry.path for folder in folders for entry in os.scandir(folder or "/") if entry.is_symlink()]
    seen: dict[str, str] = {}
    for relative in files if links else ():
        path = inner + relative
        other = seen.setdefault(os.path.realpath(path), path)
        if other != path:
            raise InputError(
                f"{path} and {other} are one file: its rows would be read twice",
                expected="every file once",
                fix="Remove the link, or name a pattern of files that leaves it out.",
            )
    for link in links:
        if not os.path.exists(link) and not is_hidden(link[len(inner) :]):
            raise InputError(
                f"the link {link} leads to no file",
                expected="a file, or a folder of them, at the end of every link",
                got=os.readlink(link),
                fix="Restore what it led to, or remove the link.",
            )


def _refuse_tables(
    files: Sequence[DataFile], below: dict[str, str], filesystem: pafs.FileSystem, place: str, inner: str, source: str
) -> None:
    """Refuse files of a table: some of them may hold rows that were deleted, or that others replaced."""
    if not files:
        return
    tables = {**_above(filesystem, place, inner), **below}
    for table, owner in tables.items():
        inside = next((file.path for file in files if file.path.startswith(f"{table}/")), None)
        if inside is not None:
            raise InputError(
                f"{source} names files of the {owner} table {table}, whose log alone tells which rows are in it",
                expected="files of no table, or the table's folder",
                got=inside,
                fix="Export its rows to files of their own: Hudi is not read."
                if owner == "Hudi"
                else f"Name {table}, without --format, to read the table as it is now.",
            )


def _above(filesystem: pafs.FileSystem, place: str, inner: str) -> dict[str, str]:
    """Tables whose folder lies above one, or is it."""
    parts = inner.split("/")
    folders = {"/".join(parts[:end]): place[: len(place) - len(inner)] + "/".join(parts[:end])
               for end in range(len(parts), 0, -1) if parts[end - 1]}  # fmt: skip
    found: dict[str, str] = {}
    try:
        for mark, owner in _LOGS.items():
            for info in filesystem.get_file_info([f"{folder}/{mark}" for folder in folders]):
                if info.type is pafs.FileType.Directory:
                    found[folders[info.path.removesuffix(f"/{mark}")]] = owner
        for info in filesystem.get_file_info([f"{folder}/metadata" for folder in folders]):
            folder = info.path.removesuffix("/metadata")
            if info.type is pafs.FileType.Directory and is_iceberg(filesystem, folder):
                found[folders[folder]] = "Iceberg"
    except OSError as error:
        # Whoever may read a folder may have no right to look above it.
        if not is_refusal(error):
            raise
    return found
