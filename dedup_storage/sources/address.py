"""What an address is, and which files it has now. Pure: no file's content is read but its first bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pyarrow.fs as pafs

from dedup_storage.errors import InputError, known_names
from dedup_storage.lake.folders import Store, is_delta_table
from dedup_storage.report.parquet.footers import DataFile
from dedup_storage.schema import check_name
from dedup_storage.sources.listing import GLOB, is_iceberg, listed, matching

__all__ = ["Address", "Kind", "find_address", "is_place"]

_SUFFIXES = {
    "parquet": "parquet", "pq": "parquet", "parq": "parquet", "csv": "csv", "tsv": "tsv", "tab": "tsv",
    "json": "json", "jsonl": "json", "ndjson": "json",
}  # fmt: skip
_COMPRESSED = ("gz", "bz2", "zst", "lz4")
# First bytes of formats that are not read -> their names.
_FOREIGN = {b"Obj\x01": "Avro", b"ORC": "ORC", b"PK\x03\x04": "a ZIP archive or a workbook", b"ARROW1": "Arrow IPC"}


class Kind(StrEnum):
    """What holds rows."""

    PARQUET = "parquet"
    CSV = "csv"
    TSV = "tsv"
    JSON = "json"
    DELTA = "delta"
    ICEBERG = "iceberg"
    TABLE = "table"


@dataclass(frozen=True)
class Address:
    """A place of rows.

    Attributes:
        source: As it was given.
        kind: What holds the rows.
        place: Absolute path or URI, or a table's name.
        files: Its files now, by path; none for tables. Partition values stand as they do in the path, decoded.
        store: Opens them.
    """

    source: str
    kind: Kind
    place: str
    files: tuple[DataFile, ...] = ()
    store: Store = field(default_factory=Store)


def is_place(source: str) -> bool:
    """Whether an address is a path rather than a table's name: it has a slash, or is there."""
    return "/" in source or Path(source).exists()


def find_address(source: str, format: str | None = None, store: Store | None = None) -> Address:
    """Find out what an address is.

    Args:
        source: A file, a folder, a pattern of files, or a table's name. A name that exists is that file, whatever
            characters it has.
        format: A kind, when names do not tell.
        store: Opens addresses; by default as this machine is set up.

    Raises:
        InputError: there is nothing, or it is of a kind that is not read.
    """
    if not source.strip():
        raise InputError("the log has no name", expected="a file, a folder, a pattern of files or a table's name",
                         fix="Give one: a variable of the shell may be empty.")  # fmt: skip
    if format is not None and format not in [kind.value for kind in Kind]:
        raise InputError(
            f"the input format {format} is not known", expected=known_names(format, [kind.value for kind in Kind])
        )
    if format == Kind.TABLE or (format is None and not is_place(source) and not _is_named_file(source)):
        for part in source.split("."):
            check_name(part, "table name")
        return Address(source, Kind.TABLE, source)
    place = source if "://" in source or source.startswith("file:") else str(Path(source).absolute())
    opener = store or Store()
    filesystem, inner = opener(place)
    info = filesystem.get_file_info(inner)
    if info.type is pafs.FileType.NotFound:
        named = matching(filesystem, place, inner, source)
        if named is None:
            raise InputError(f"there is no file at {place}", fix="Check the path.")
        return Address(source, _kind_of(named[1], format, source, opener), *named, opener)
    if info.is_file:
        only = (DataFile(place, info.size, changed_ns=info.mtime_ns),)
        return Address(source, _kind_of(only, format, source, opener), place, only, opener)
    if info.type is pafs.FileType.Unknown:
        raise InputError(
            f"{source} is no file and no folder",
            expected="files, which are read more than once",
            fix="Write what a pipe or a device gives into a file first.",
        )
    place, inner = place.rstrip("/"), inner.rstrip("/")
    if format in (None, Kind.DELTA) and is_delta_table(place, opener.properties):
        return Address(source, Kind.DELTA, place, store=opener)
    if format in (None, Kind.ICEBERG) and is_iceberg(filesystem, inner):
        return Address(source, Kind.ICEBERG, place, store=opener)
    if format in (Kind.DELTA, Kind.ICEBERG):
        raise InputError(f"the folder {source} is no {format} table", fix="Check the path and --format.")
    files = tuple(listed(filesystem, place, inner, source))
    if not files:
        raise InputError(f"the folder {source} holds no files", fix="Check the path.")
    return Address(source, _kind_of(files, format, source, opener), place, files, opener)


def _is_named_file(source: str) -> bool:
    """Whether a name without a slash, which is not there, can only be a file's: ``log.csv``."""
    return source.rpartition(".")[2].lower() in {*_SUFFIXES, *_COMPRESSED} or bool(GLOB.search(source))


def _kind_of(files: Sequence[DataFile], format: str | None, source: str, store: Store) -> Kind:
    """The one kind of all files.

    Raises:
        InputError: they are of several kinds, or of one that is not read.
    """
    if format is not None:
        return Kind(format)
    first: tuple[Kind, str] | None = None
    for file in files:
        kind = _named_kind(file.path) or _sniffed(file.path, store)
        if first is None:
            first = (kind, file.path)
        elif kind is not first[0]:
            raise InputError(
                f"the files of {source} are of several kinds: {first[1]} is {first[0]} and {file.path} is {kind}",
                fix="Name a folder or a pattern of files of one kind, or give --format.",
            )
    if first is None:
        raise InputError(f"{source} holds no files", fix="Check the path.")
    return first[0]


def _named_kind(path: str) -> Kind | None:
    parts = path.rpartition("/")[2].lower().split(".")
    packed = parts[-1] in _COMPRESSED
    suffix = parts[-2] if packed and len(parts) > 1 else parts[-1]
    if len(parts) == 1 or suffix not in _SUFFIXES:
        return None
    kind = Kind(_SUFFIXES[suffix])
    if packed and kind is Kind.PARQUET:
        raise InputError(
            f"the Parquet file {path} is compressed as a whole",
            expected="Parquet, which compresses its own pages",
            fix=f"Unpack it: it ends in .{parts[-1]}.",
        )
    return kind


def _sniffed(path: str, store: Store) -> Kind:
    """The kind of a file whose name does not tell."""
    filesystem, inner = store(path)
    with filesystem.open_input_file(inner) as stream:
        head = stream.read(8)
    if head[:4] == b"PAR1":
        return Kind.PARQUET
    foreign = next((name for mark, name in _FOREIGN.items() if head.startswith(mark)), None)
    raise InputError(
        f"the file {path} is {foreign}, which is not read" if foreign else f"the kind of the file {path} is not known",
        expected="Parquet, CSV (.csv), TSV (.tsv) or JSON lines (.jsonl), the last three also as .gz, .bz2, .zst, .lz4",
        fix="Take it out of the folder, name it by its kind, or give --format.",
    )
