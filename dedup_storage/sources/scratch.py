"""Rows made plain Parquet in a scratch folder, which is gone when the process ends."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from dedup_storage.errors import StorageError
from dedup_storage.lake.folders import Store
from dedup_storage.report.parquet.footers import DataFile

__all__ = ["Parent", "ScratchFolder", "is_scratch"]

_ROWS = 65_536
_PREFIX = "dedup-storage-input-"
# A folder, or what names one (or refuses) once there are rows for it; ``None`` is this machine's temporary folder.
Parent = str | Callable[[], str] | None


class ScratchFolder:
    """A new folder for plain Parquet files, removed when the process ends.

    Args:
        parent: Folder that every process that reads the rows reaches, or what names it; by default this machine's
            temporary folder.
        store: Opens it.
    """

    def __init__(self, parent: Parent = None, store: Store | None = None) -> None:
        self.store = store or Store()
        if parent is None:
            self.place = tempfile.mkdtemp(prefix=_PREFIX)
            atexit.register(shutil.rmtree, self.place, ignore_errors=True)
        else:
            folder = parent() if callable(parent) else parent
            self.place = f"{folder.rstrip('/')}/{_PREFIX}{uuid.uuid4().hex}"
            filesystem, inner = self.store(self.place)
            filesystem.create_dir(inner)
            atexit.register(_remove, filesystem, inner)
        self._files = 0

    def write(self, tables: Iterable[pa.Table | pa.RecordBatch]) -> Iterator[DataFile]:
        """Write rows; a new file is begun where their schema changes, so that a file has one. Order is kept.

        Raises:
            StorageError: the folder cannot be written to.
        """
        writer: pq.ParquetWriter | None = None
        at, now = "", pa.schema([])
        try:
            # What reading the rows raises is no fault of the folder.
            for part in tables:
                rows = pa.Table.from_batches([part]) if isinstance(part, pa.RecordBatch) else part
                if writer is None or rows.schema != now:
                    if writer is not None:
                        with self._used():
                            writer.close()
                        yield self._made(at)
                    at, now = f"{self.place}/part-{self._files:06d}.parquet", rows.schema
                    self._files += 1
                    with self._used():
                        filesystem, inner = self.store(at)
                        writer = pq.ParquetWriter(inner, now, filesystem=filesystem, compression="zstd")
                with self._used():
                    writer.write_table(rows, row_group_size=_ROWS)
            if writer is not None:
                with self._used():
                    writer.close()
                writer = None
                yield self._made(at)
        finally:
            if writer is not None:
                writer.close()

    @contextmanager
    def _used(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, (pa.ArrowException, StorageError)):
                raise
            raise StorageError(f"the scratch folder {self.place} cannot be used: {error}") from None

    def _made(self, place: str) -> DataFile:
        filesystem, inner = self.store(place)
        return DataFile(place, filesystem.get_file_info(inner).size)


def is_scratch(path: str) -> bool:
    """Whether a file lies in a scratch folder."""
    return f"/{_PREFIX}" in path


def _remove(filesystem: pafs.FileSystem, inner: str) -> None:
    if filesystem.get_file_info(inner).type is pafs.FileType.Directory:
        filesystem.delete_dir(inner)
