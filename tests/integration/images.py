"""What a job leaves on the disk where it dies, for every fault point, from one run of it.

Wherever the job reaches a point for the first time, the dataset's folder and its rows of the catalog are copied, and
the job goes on. To put a copy back in its place is to have had the process killed there, without a new process.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage import faults
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset

__all__ = ["BEFORE", "Images", "record"]

# In place of a point: before the job.
BEFORE = "before"

# Tables of the embedded catalog, and the column that names the dataset.
CATALOG = {"iceberg_tables": "table_namespace", "iceberg_namespace_properties": "namespace"}
Rows = dict[str, list[tuple[Any, ...]]]


class Images:
    """Copies of datasets at the points that a job reached.

    Args:
        spark: The session that will read the datasets when they are back in their place.
        settings: The lake.
        place: An empty folder for the copies.
        names: The datasets that the job changes.
    """

    def __init__(self, spark: SparkSession, settings: Settings, place: Path, names: Sequence[str]) -> None:
        self.spark, self.settings, self.place, self.names = spark, settings, place, names
        self.warehouse = Path(str(settings.local_warehouse))
        self._rows: dict[str, Rows] = {}

    @property
    def points(self) -> list[str]:
        """Points in the order in which they were first reached."""
        return [point for point in self._rows if point != BEFORE]

    def take(self, point: str) -> None:
        """Copy the datasets as they are, unless the point has its copy."""
        if point in self._rows:
            return
        # Nothing is linked: a job may be in the middle of a file.
        for name in self.names:
            if (self.warehouse / name).exists():
                shutil.copytree(self.warehouse / name, self.place / point / name)
        self._rows[point] = self._catalog_rows()

    def restore(self, point: str) -> Dataset:
        """Let the datasets be what they were at a point, no file more, no file less; gives the first, opened anew.

        Other datasets whose names begin with theirs are gone.
        """
        for name in self.names:
            for folder in self.warehouse.glob(f"{name}*"):
                shutil.rmtree(folder)
        for name in self.names:
            if (self.place / point / name).exists():
                shutil.copytree(self.place / point / name, self.warehouse / name)
        with closing(self._connect()) as catalog, catalog:
            for table, column in CATALOG.items():
                if table in self._rows[point]:
                    catalog.executemany(f"DELETE FROM {table} WHERE {column} GLOB ?", [(f"{n}*",) for n in self.names])
                    for row in self._rows[point][table]:
                        catalog.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        # Delta remembers the logs that it has read, by their paths.
        self.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]
        return Dataset.open(self.spark, self.settings, self.names[0])

    def first_like(self, point: str) -> str:
        """The first point with the same image: between the two, the job stored nothing."""
        return next(p for p in self.points if self._digest(p) == self._digest(point))

    @cache  # noqa: B019
    def _digest(self, point: str) -> str:
        found = hashlib.sha256(repr(sorted(self._rows[point].items())).encode())
        for path in sorted((self.place / point).rglob("*")):
            found.update(str(path.relative_to(self.place / point)).encode())
            if path.is_file():
                found.update(hashlib.sha256(path.read_bytes()).digest())
        return found.hexdigest()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.warehouse / "catalog.db", timeout=60)

    def _catalog_rows(self) -> Rows:
        with closing(self._connect()) as catalog:
            there = {row[0] for row in catalog.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            return {t: list(self._named(catalog, t, column)) for t, column in CATALOG.items() if t in there}

    def _named(self, catalog: sqlite3.Connection, table: str, column: str) -> Iterator[tuple[Any, ...]]:
        for name in self.names:
            yield from catalog.execute(f"SELECT * FROM {table} WHERE {column} = ? ORDER BY 1, 2, 3", (name,))


def record(images: Images, job: Callable[[], object]) -> None:
    """Run a job to its end, with a copy of its datasets before it and at each point that it reaches."""
    images.take(BEFORE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "watcher", images.take)
        job()
