"""Erasure from Delta tables: every kept version made anew without the users, old files and their log removed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.faults import reached
from dedup_storage.lake.delta.erase import TableEraser
from dedup_storage.lake.delta.metadata import DeltaLake, DeltaMetadata
from dedup_storage.lake.delta.publish import DeltaPublisher
from dedup_storage.lake.delta.relay import RELAY
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.runs import Run
from dedup_storage.lake.upkeep import Found, MadeAnew, OvertakenError, TableErasure
from dedup_storage.layout import DatasetSpec

__all__ = ["DeltaErasure"]


class DeltaErasure:
    """The ``Erasure`` of Delta; rows of theirs that a run has staged are found too.

    Args:
        spark, lake: Where the tables are.
        spec: The dataset.
        users: The users, one column with the user column's name.
        run_id: The run.
    """

    def __init__(self, spark: SparkSession, lake: DeltaLake, spec: DatasetSpec, users: DataFrame, run_id: str) -> None:
        self.spark, self.lake, self.spec, self.users, self.run_id = spark, lake, spec, users, run_id
        self._publisher = DeltaPublisher(spark, lake)
        self._meta = lake.load(spec.name)
        self._erasers: dict[str, TableEraser] = {}

    def begin(self) -> None:
        """Nothing: what a killed attempt staged stands in nobody's way, and holds no row of the users."""

    def find(self) -> Found:
        """See ``Erasure``."""
        self._meta = meta = self.lake.load(self.spec.name)
        self._erasers = self._erasers_of(meta)
        found = {
            name: TableErasure(
                table=name, rows=eraser.count(eraser.found.current_files), files=len(eraser.found.touched)
            )
            for name, eraser in self._erasers.items()
        }
        staged = sorted(name for name, eraser in self._erasers.items() if eraser.found.staged)
        return Found(meta.current, found, tuple(staged))

    def _erasers_of(self, meta: DeltaMetadata) -> dict[str, TableEraser]:
        store, found = self._publisher.store(self.spec.name), {}
        for name in meta.tables:
            eraser = TableEraser(self.spark, store, meta, name, self.users)
            if eraser.has_users:
                found[name] = eraser
        return found

    def make_anew(self) -> MadeAnew:
        """Publish a version without the users that also makes every kept one anew."""
        meta = self._meta
        if not any(eraser.unclean for eraser in self._erasers.values()) or meta.version_of_run(self.run_id) is not None:
            return MadeAnew()
        snapshots = self._publish(meta)
        touched = {name: eraser.found.touched for name, eraser in self._erasers.items()}
        versions = {v for name, files in touched.items() for v in _versions(meta, name, files)}
        return MadeAnew(snapshots, tuple(sorted(versions)) if any(snapshots.values()) else ())

    def _publish(self, meta: DeltaMetadata) -> dict[str, int]:
        attempt = f"{self.run_id}/{uuid.uuid4().hex[:12]}"
        run = Run(
            run_id=self.run_id,
            job="forget-user",
            attempt=attempt,
            base=meta.current,
            dates=None,
            facts={"mode": "forget", "kind": RELAY},
        )
        current, again = meta.snapshots(meta.current), {}
        try:
            for name, eraser in self._erasers.items():
                relay = eraser.relay()
                self._publisher.store(self.spec.name).put_note(attempt, relay.table, relay.to_json())
                again[name] = len(eraser.hit)
                reached("forget:written")
            self._publisher.publish(self.spec, run, [name for name in self._erasers if name in current], _overtaken)
        except BaseException:
            self._publisher.discard(self.spec, run)
            raise
        reached("forget:published")
        return again

    def remove(self) -> None:
        """See ``Erasure``."""
        for name, eraser in self._erasers_of(self.lake.load(self.spec.name)).items():
            eraser.remove(self._publisher.log(self.spec.name, name))

    def left(self) -> dict[str, tuple[int, int]]:
        """See ``Erasure``."""
        erasers = self._erasers_of(self.lake.load(self.spec.name))
        return {name: eraser.left() for name, eraser in erasers.items()}


def _versions(meta: DeltaMetadata, table: str, touched: Mapping[str, frozenset[int]]) -> set[int]:
    """Versions that name one of the touched files of a table."""
    hit = {snapshot for snapshots in touched.values() for snapshot in snapshots}
    return {v for v in meta.version_numbers if meta.snapshots(v).get(table) in hit}


def _overtaken(_: DatasetMetadata) -> None:
    raise OvertakenError
