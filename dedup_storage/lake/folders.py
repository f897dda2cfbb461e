"""Folders and small files of a warehouse that no catalog lists, by pyarrow's file systems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import pyarrow as pa
import pyarrow.fs as pafs

from dedup_storage.errors import StorageError
from dedup_storage.lake.stores import S3_SCHEMES, with_region
from dedup_storage.secrets import hidden

__all__ = [
    "VOCABULARIES",
    "Store",
    "child_folders",
    "delete_files",
    "delete_folder",
    "delete_vocabularies",
    "holds_anything",
    "is_delta_table",
    "is_hidden",
    "list_files",
    "open_folder",
    "read_text",
    "resolve_uri",
    "write_text",
]

# Folder of the anchor table that the reader's vocabularies lie in.
VOCABULARIES = "_vocabularies"
# Beginning of the properties that tell of a store -> schemes of its addresses.
_STORES = {"s3": S3_SCHEMES, "gcs": ("gs", "gcs"), "adls": ("abfs", "abfss", "wasb", "wasbs")}


@dataclass(frozen=True)
class Store:
    """Opens addresses by the settings of one configuration.

    Attributes:
        properties: Catalog properties; a store that they say nothing of is opened as this machine is set up
            (``AWS_ACCESS_KEY_ID``, a role, …).

    Example:
        >>> Store({"s3.region": "eu-north-1"})("s3://logs/clicks")[1]
        'logs/clicks'
    """

    properties: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __call__(self, uri: str) -> tuple[pafs.FileSystem, str]:
        """The file system of an address and the path inside it."""
        return open_folder(uri, self.properties)


def open_folder(uri: str, properties: Mapping[str, str] | None = None) -> tuple[pafs.FileSystem, str]:
    """The file system of an address and the path inside it.

    Args:
        uri: Absolute path, or an address with its scheme.
        properties: Catalog properties; those of the address's store are used.

    Raises:
        StorageError: the scheme is not known to this machine's Arrow, or a property does not fit.
    """
    scheme, _, rest = uri.partition("://")
    prefix = next((mark for mark, schemes in _STORES.items() if scheme in schemes), None)
    given = {k: v for k, v in with_region(properties or {}).items() if k.startswith((f"{prefix}.", "client."))}
    if "://" not in uri or prefix is None or not given:
        return resolve_uri(uri)
    # Container and account of Azure's addresses; elsewhere the bucket.
    authority, _, inner = rest.partition("/")
    try:
        filesystem = _given(scheme, authority, tuple(sorted(given.items())))
    except (pa.ArrowException, ValueError, OSError) as error:
        raise _unopened(uri, error) from None
    return filesystem, f"{authority.partition('@')[0]}/{inner}" if inner else authority.partition("@")[0]


@lru_cache(maxsize=64)
def _given(scheme: str, authority: str, properties: tuple[tuple[str, str], ...]) -> pafs.FileSystem:
    """A store by the properties of a catalog, as PyIceberg opens the files of its tables."""
    from pyiceberg.io.pyarrow import PyArrowFileIO

    return PyArrowFileIO(dict(properties)).fs_by_scheme(scheme, authority)


def resolve_uri(path: str) -> tuple[pafs.FileSystem, str]:
    """File system and inner path of a path or URI (``s3://``, ``gs://``, ``hdfs://``, ``file:``, or none).

    Raises:
        StorageError: the scheme is not known to this machine's Arrow.
    """
    if path.startswith("file:"):
        return _local(), "/" + path.removeprefix("file:").lstrip("/")
    if "://" not in path:
        return _local(), path
    scheme, _, rest = path.partition("://")
    # Hadoop's names of an object store's address.
    scheme = {"s3a": "s3", "s3n": "s3"}.get(scheme, scheme)
    try:
        return _remote(scheme, rest.partition("/")[0]), _inner(scheme, rest)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise _unopened(path, error) from None


def _unopened(place: str, error: Exception) -> StorageError:
    reason = str(error).strip().split("\n")[0].rstrip(".")[:300]
    return StorageError(hidden(f"the address {place} cannot be opened: {reason}"))


@lru_cache(maxsize=1)
def _local() -> pafs.FileSystem:
    return pafs.LocalFileSystem()


@lru_cache(maxsize=64)
def _remote(scheme: str, authority: str) -> pafs.FileSystem:
    return pafs.FileSystem.from_uri(f"{scheme}://{authority}/")[0]


def _inner(scheme: str, rest: str) -> str:
    # HDFS paths start after the name node; object stores keep the bucket as their first level, Azure's the container.
    authority, slash, inner = rest.partition("/")
    return f"/{inner}" if scheme in ("hdfs", "viewfs") else f"{authority.partition('@')[0]}{slash}{inner}"


def is_hidden(place: str) -> bool:
    """Whether Spark would not read a file at this place in a folder: a part of it begins with a dot, or with ``_``
    and is no partition such as ``_event_date=2024-01-31``."""
    return any(part[:1] == "." or (part[:1] == "_" and "=" not in part) for part in place.split("/"))


def is_delta_table(uri: str, properties: Mapping[str, str] | None = None) -> bool:
    """Whether a folder is a Delta table."""
    filesystem, path = open_folder(f"{uri.rstrip('/')}/_delta_log", properties)
    return bool(filesystem.get_file_info(path).type is pafs.FileType.Directory)


def child_folders(uri: str, properties: Mapping[str, str] | None = None) -> list[str]:
    """Names of the folders directly inside a folder; none when it is not there."""
    filesystem, path = open_folder(uri, properties)
    entries = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return sorted(e.base_name for e in entries if e.type is pafs.FileType.Directory)


def holds_anything(uri: str, properties: Mapping[str, str] | None = None) -> bool:
    """Whether anything is in a folder."""
    filesystem, path = open_folder(uri, properties)
    return bool(filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True)))


def list_files(uri: str, properties: Mapping[str, str] | None = None) -> list[pafs.FileInfo]:
    """Every file below a folder; none when it is not there."""
    filesystem, path = open_folder(uri, properties)
    entries = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=True))
    return [e for e in entries if e.is_file]


def write_text(uri: str, text: str, properties: Mapping[str, str] | None = None) -> None:
    """Write a small file; what it held before is gone.

    Raises:
        StorageError: it cannot be written.
    """
    filesystem, path = open_folder(uri, properties)
    try:
        if isinstance(filesystem, pafs.LocalFileSystem):
            filesystem.create_dir(path.rsplit("/", 1)[0])
        with filesystem.open_output_stream(path) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise StorageError(f"the file {uri} cannot be written: {error}") from error


def read_text(uri: str, properties: Mapping[str, str] | None = None) -> str | None:
    """A small file's text; ``None`` when it is not there.

    Raises:
        StorageError: it cannot be read.
    """
    filesystem, path = open_folder(uri, properties)
    try:
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read()).decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"the file {uri} cannot be read: {error}") from error


def all_there(uri: str, paths: Sequence[str], properties: Mapping[str, str] | None = None) -> bool:
    """Whether all files of a folder, by their place in it, are there."""
    filesystem, root = open_folder(uri, properties)
    return all(info.is_file for info in filesystem.get_file_info([f"{root}/{path}" for path in paths]))


def changed_files(
    uri: str, sizes: Mapping[str, int], properties: Mapping[str, str] | None = None
) -> dict[str, int | None]:
    """Files of a folder that do not have the bytes they should -> those they have; ``None`` where there is no file.

    Args:
        uri: The folder.
        sizes: Place of each file in it -> bytes.
        properties: Catalog properties.
    """
    filesystem, root = open_folder(uri, properties)
    infos = filesystem.get_file_info([f"{root}/{path}" for path in sizes]) if sizes else []
    found = {path: info.size if info.is_file else None for path, info in zip(sizes, infos, strict=True)}
    return {path: size for path, size in found.items() if size != sizes[path]}


def delete_files(uri: str, paths: Iterable[str], properties: Mapping[str, str] | None = None) -> int:
    """Delete files of a folder by their place in it; gives how many were there."""
    filesystem, root = open_folder(uri, properties)
    gone = 0
    for path in paths:
        try:
            filesystem.delete_file(f"{root}/{path}")
            gone += 1
        except FileNotFoundError:
            continue
    return gone


def delete_folder(uri: str, properties: Mapping[str, str] | None = None) -> None:
    """Delete a folder with everything in it, if it is there."""
    filesystem, path = open_folder(uri, properties)
    if filesystem.get_file_info(path).type is pafs.FileType.Directory:
        filesystem.delete_dir(path)


def delete_vocabularies(anchor: str, properties: Mapping[str, str] | None = None) -> None:
    """Delete the vocabularies of a dataset: those counted from rows that are gone hold their values, and are never
    read again.

    Args:
        anchor: Folder of the anchor table.
        properties: Catalog properties.

    Raises:
        StorageError: they cannot be deleted.
    """
    place = f"{anchor.rstrip('/')}/{VOCABULARIES}"
    try:
        delete_folder(place, properties)
    except OSError as error:
        raise StorageError(f"the vocabularies {place} cannot be deleted: {error}", fix="Run the job again.") from error
