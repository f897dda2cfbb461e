"""Gives up a decided Iceberg version that cannot be completed, safely against helpers that try to.

First the claim goes, in one commit with the hold of the anchor's own staged snapshot: the commit that would complete
the version takes that hold away, so only one of the two can be made. Then each table is undone: a hold that is left is
taken away, so that nobody can bring the member in any more; a member that was brought in is taken out again. Both look
at the very state that they change. Whoever meets a version half given up goes on with it. Its number is never used
again, so that a slow helper's tag names a version that there is not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.faults import reached
from dedup_storage.lake.engine.atomic import AtomicChange, atomic_change
from dedup_storage.lake.iceberg.complete import came_first
from dedup_storage.lake.iceberg.holds import ATTEMPT, back_tag, hold_tag
from dedup_storage.lake.iceberg.metadata import ABANDONED_PREFIX, MEMBERS_PREFIX, IcebergMetadata, Lake
from dedup_storage.lake.iceberg.snapshots import snapshot_summary
from dedup_storage.lake.publishing import LostRaceError
from dedup_storage.lake.retries import small_commits
from dedup_storage.layout import PROPERTY_PREFIX, claim_tag, version_tag

__all__ = ["ABANDONED", "Abandonment"]

# Of a snapshot that empties a table again: the version that was given up.
ABANDONED = PROPERTY_PREFIX + "abandoned"


class Abandonment:
    """Gives up versions of one catalog's datasets.

    Args:
        spark, settings, lake: Where the tables are.
    """

    def __init__(self, spark: SparkSession, settings: Settings, lake: Lake) -> None:
        self.spark, self.settings, self.lake = spark, settings, lake

    def abandon(self, meta: IcebergMetadata, version: int) -> None:
        """Take the claim away and undo what it did.

        Raises:
            LostRaceError: the version was completed, or is not decided.
        """
        tag, claim = version_tag(version), claim_tag(version)
        facts = meta.claim(version)
        claimed = meta.anchor.snapshot_by_id(int(facts["staged"])) if "staged" in facts else None
        attempt = snapshot_summary(claimed).get(ATTEMPT, "") if claimed is not None else ""
        record = {"whole": False, "attempt": attempt, "run-id": facts.get("run-id", ""), "job": facts.get("job", "")}

        def give_up() -> None:
            with self._change(meta, meta.spec.anchor.name) as change:
                if change.property(ABANDONED_PREFIX + tag):
                    return
                if change.ref(tag) is not None or change.ref(claim) is None:
                    raise LostRaceError(f"version {version} was completed, or was never decided")
                text = json.dumps({**record, "at-ms": time.time_ns() // 1_000_000})
                change.set_property(ABANDONED_PREFIX + tag, text)
                held = (hold_tag(attempt), back_tag(attempt))
                change.untag(claim, *(name for name in held if change.ref(name) is not None))

        _until_first(give_up)
        reached("abandon:unclaimed")
        meta = self.lake.load(meta.spec.name)
        if not meta.abandoned.get(version, True):
            self.undo(meta, version)

    def undo(self, meta: IcebergMetadata, version: int) -> None:
        """See ``PublisherBase``."""
        key = ABANDONED_PREFIX + version_tag(version)
        record = json.loads(meta.anchor.properties[key])
        members = meta.members(version)
        before = meta.snapshots(members.parent if members is not None else meta.current)
        for name in meta.tables:
            self._undo_table(meta, name, version, record["attempt"], before.get(name))
            reached(f"abandon:undone-{name}")

        def finish() -> None:
            with self._change(meta, meta.spec.anchor.name) as change:
                if change.property(key) is None or json.loads(str(change.property(key)))["whole"]:
                    return
                change.set_property(key, json.dumps({**record, "whole": True}))
                if change.property(MEMBERS_PREFIX + version_tag(version)) is not None:
                    change.set_property(MEMBERS_PREFIX + version_tag(version), None)

        _until_first(finish)

    def _undo_table(self, meta: IcebergMetadata, name: str, version: int, attempt: str, before: int | None) -> None:
        tag = version_tag(version)

        def undo() -> None:
            with self._change(meta, name) as change:
                brought = change.ref(tag)
                if brought is not None and brought != before and _on_main(change, brought):
                    if before is None:
                        change.empty({ABANDONED: str(version)})
                    else:
                        change.set_main(before)
                names = (tag, hold_tag(attempt), back_tag(attempt))
                gone = [held for held in names if change.ref(held) is not None]
                if gone:
                    change.untag(*gone)

        _until_first(undo)

    def _change(self, meta: IcebergMetadata, name: str) -> AbstractContextManager[AtomicChange]:
        return atomic_change(self.spark, f"{self.settings.catalog.name}.{meta.spec.name}.{name}")


def _on_main(change: AtomicChange, snapshot_id: int) -> bool:
    return any(found == snapshot_id for found, _ in change.line())


def _until_first(commit: Callable[[], None]) -> None:
    for attempt in small_commits(came_first):
        with attempt:
            commit()
