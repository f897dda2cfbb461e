"""Why a file is not read as Parquet: it is damaged, is something else, is gone, or storage does not give it. Pure."""

from __future__ import annotations

from dedup_storage.errors import DedupStorageError, InputError, StorageError
from dedup_storage.lake.retries import is_refusal, is_transient, storage_refused
from dedup_storage.report.parquet.footers import Resolve

__all__ = ["unreadable"]

_PARQUET, _ENCRYPTED = b"PAR1", b"PARE"


def unreadable(path: str, error: BaseException, resolve: Resolve) -> DedupStorageError:
    """The error for a file whose footer was not read; only one that is damaged is to be replaced.

    Args:
        path: The file.
        error: What Arrow raised.
        resolve: Finds its file system.
    """
    told = str(error).splitlines()[0]
    if isinstance(error, FileNotFoundError):
        return InputError(
            f"the file {path} is not there any more",
            expected="files that stay while they are read",
            fix="Run again when nothing else writes to the folder.",
        )
    if is_refusal(error):
        return storage_refused(f"the file {path} was read", error)
    filesystem, inner = resolve(path)
    try:
        with filesystem.open_input_file(inner) as stream:
            head = bytes(stream.read(4))
    except OSError:
        return _failed(path, told)
    if head == _ENCRYPTED:
        return InputError(
            f"the file {path} is encrypted Parquet, which is not read", fix="Write it again without encryption."
        )
    if head not in (_PARQUET, b""):
        return InputError(
            f"the file {path} is no Parquet file",
            expected=f"a file that begins with {_PARQUET.decode()}",
            got=f"one that begins with {head!r}",
            fix="Take it out of the folder, name a pattern of files that leaves it out, or leave out --format.",
        )
    if is_transient(error):
        return _failed(path, told)
    return InputError(
        f"the file {path} cannot be read: {told}",
        expected="a whole Parquet file",
        fix="Replace or remove the damaged file.",
    )


def _failed(path: str, told: str) -> StorageError:
    return StorageError(
        f"storage failed while the file {path} was read: {told}", fix="Nothing is known to be damaged: run again."
    )
