"""Erasure from Delta tables: every kept version made anew without the users, old files and their log removed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.faults import reached
from dedup_storage.lake.delta.erase import TableEraser
from dedup_storage.lake.delta.metadata import DeltaLake, DeltaMetadata
from dedup_storage.lake.delta.publish import DeltaPublisher
from dedup_storage.lake.delta.relay import RELAY
from dedup_storage.lake.engine.sessions import move_to
from dedup_storage.lake.facts import ERASING
from dedup_storage.lake.folders import delete_vocabularies
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.runs import Run, new_attempt
from dedup_storage.lake.stored_rows import count_present
from dedup_storage.lake.upkeep import Found, OvertakenError, Remains, TableErasure
from dedup_storage.layout import DatasetSpec

__all__ = ["DeltaErasure"]


class DeltaErasure:
    """The ``Erasure`` of Delta; rows of theirs that a run has staged are found too.

    Args:
        spark, lake: Where the tables are.
        spec: The dataset.
        users: The users, one column with the user column's name.
        run_id: The run.
        facts: Facts to keep with its version.
    """

    def __init__(
        self,
        spark: SparkSession,
        lake: DeltaLake,
        spec: DatasetSpec,
        users: DataFrame,
        run_id: str,
        facts: Mapping[str, str],
    ) -> None:
        self.spark, self.lake, self.spec, self.users, self.run_id = spark, lake, spec, users, run_id
        self.facts = facts
        self._publisher = DeltaPublisher(spark, lake)
        self._meta = lake.load(spec.name)
        self._erasers: dict[str, TableEraser] = {}

    def begin(self, stopped: Collection[str] = ()) -> None:
        """Remove what killed attempts of this erasure and of others staged: the rows of all but their users."""
        meta = self.lake.load(self.spec.name)
        for run_id in (self.run_id, *stopped):
            self._publisher.let_go(meta, run_id)
        # Beside what such attempts staged, descriptions tell of least and greatest ids; of versions that are complete
        # nobody needs them.
        self._publisher.store(self.spec.name).forget_done(meta.decided, meta.pending)

    def remember(self, text: str) -> None:
        """See ``Erasure``; an event."""
        self.lake.log(self.spec.name).record_erasure(self.run_id, text)

    def find(self) -> Found:
        """See ``Erasure``."""
        self._meta = meta = self.lake.load(self.spec.name)
        self._erasers = self._erasers_of(meta)
        found = {
            name: TableErasure(
                table=name,
                rows=eraser.count(eraser.found.current_files),
                files=len(eraser.found.touched),
                snapshots_rewritten=len(eraser.hit),
            )
            for name, eraser in self._erasers.items()
        }
        staged = sorted(name for name, eraser in self._erasers.items() if eraser.found.staged)
        present = [move_to(self.spark, eraser.present()) for eraser in self._erasers.values()]
        versions = sorted({v for n, eraser in self._erasers.items() for v in _versions(meta, n, eraser.hit)})
        return Found(meta.current, found, tuple(staged), count_present(present), tuple(versions))

    def _erasers_of(self, meta: DeltaMetadata) -> dict[str, TableEraser]:
        store, found = self._publisher.store(self.spec.name), {}
        for name in meta.tables:
            eraser = TableEraser(self.spark, store, meta, name, self.users)
            if eraser.has_users:
                found[name] = eraser
        return found

    def make_anew(self) -> None:
        """Publish a version without the users that also makes every kept one anew."""
        meta = self._meta
        if any(eraser.unclean for eraser in self._erasers.values()) and meta.version_of_run(self.run_id) is None:
            self._publish(meta)

    def _publish(self, meta: DeltaMetadata) -> None:
        attempt = new_attempt(self.run_id)
        run = Run(
            run_id=self.run_id,
            job=ERASING,
            attempt=attempt,
            base=meta.current,
            dates=None,
            facts={"mode": "forget", "kind": RELAY, **self.facts},
        )
        current = meta.snapshots(meta.current)
        try:
            for eraser in self._erasers.values():
                relay = eraser.relay()
                self._publisher.store(self.spec.name).put_note(attempt, relay.table, relay.to_json())
                reached("forget:written")
            self._publisher.publish(self.spec, run, [name for name in self._erasers if name in current], _overtaken)
        except BaseException:
            self._publisher.discard(self.spec, run)
            raise
        reached("forget:published")

    def remove(self) -> None:
        """See ``Erasure``."""
        for name, eraser in self._erasers_of(self.lake.load(self.spec.name)).items():
            eraser.remove(self._publisher.log(self.spec.name, name))
        anchor = self.lake.uri(self.spec.name, self.spec.anchor.name)
        delete_vocabularies(anchor, self.lake.settings.catalog.properties)

    def remains(self) -> dict[str, Remains]:
        """See ``Erasure``."""
        erasers = self._erasers_of(self.lake.load(self.spec.name))
        return {name: eraser.remains() for name, eraser in erasers.items()}


def _versions(meta: DeltaMetadata, table: str, hit: Collection[int]) -> set[int]:
    """Versions that name one of some Delta versions of a table."""
    return {v for v in meta.version_numbers if meta.snapshots(v).get(table) in hit}


def _overtaken(_: DatasetMetadata) -> None:
    raise OvertakenError
