"""What Spark's tasks run: they are handed over as they are, and a new Python process imports this module for them.

So it imports nothing but arrays and matching. What a write knows beside that (catalogs, settings, Spark's own frames)
would be loaded by each process again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from dedup_storage.windows.anew import AnewStream
from dedup_storage.windows.pieces import event_pieces
from dedup_storage.windows.stream import UserStream

__all__ = ["LayTask", "PieceTask", "forget_archives"]

# PySpark, Py4J, and jars: Spark puts that of its core and those of packages on Python's path too.
_ARCHIVES = re.compile(r"pyspark\.zip|py4j-.*\.zip|.*\.jar")


@dataclass(frozen=True)
class PieceTask:
    """Makes pieces of users' lists.

    Attributes:
        user, position, columns: As of ``event_pieces``.
        schema: Of the rows that come out.
    """

    user: str
    position: str
    columns: Sequence[str]
    schema: pa.Schema

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """A partition's batches of events as pieces."""
        forget_archives()
        for batch in batches:
            yield _typed(event_pieces(batch, self.user, self.position, self.columns), self.schema)


@dataclass(frozen=True)
class LayTask:
    """Lays requests into their users' lists, or these anew, by a stream that begins anew in every task.

    Attributes:
        stream: Says which columns are which.
        schema: Of the rows that come out.
    """

    stream: UserStream | AnewStream
    schema: pa.Schema

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """A partition's batches, laid."""
        forget_archives()
        for batch in replace(self.stream).lay(batches):
            yield _typed(batch, self.schema)


def forget_archives() -> None:
    """Let Python forget what it knows of the archives that Spark puts on the path of its processes.

    Before each task Spark has its process look again at every place that modules came from, since files may have been
    added. Of an archive Python then reads the whole list of files, once for each folder in it that something was
    imported from; jars of table formats have 20,000, and hardly ever a module. Spark's archives stay as they are while
    the process lives, and a place that is not remembered is found when a module is imported from it. Archives of others
    may change, and are looked at as ever.
    """
    for place, finder in list(sys.path_importer_cache.items()):
        if _ARCHIVES.fullmatch(Path(getattr(finder, "archive", "")).name):
            del sys.path_importer_cache[place]


def _typed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    arrays = [batch.column(f.name) for f in schema]
    cast = [a if a.type == f.type else a.cast(f.type) for a, f in zip(arrays, schema, strict=True)]
    return pa.RecordBatch.from_arrays(cast, schema=schema)
