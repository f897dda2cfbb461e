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

from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.faults import reached
from dedup_storage.lake.engine.atomic import AtomicChange
from dedup_storage.lake.iceberg.branch import change_again
from dedup_storage.lake.iceberg.holds import back_tag, deciding_attempt, hold_tag
from dedup_storage.lake.iceberg.metadata import (
    ABANDONED_PREFIX,
    DESCRIBED_PREFIX,
    MEMBERS_PREFIX,
    IcebergMetadata,
    Lake,
)
from dedup_storage.lake.iceberg.snapshots import NO_GROUP
from dedup_storage.lake.publishing import LostRaceError
from dedup_storage.layout import PROPERTY_PREFIX, DatasetSpec, claim_tag, version_tag

__all__ = ["Abandonment"]

# Of a snapshot that empties a table again: the version that was given up.
_ABANDONED = PROPERTY_PREFIX + "abandoned"


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
        attempt = deciding_attempt(meta, version) or ""
        record = {"whole": False, "attempt": attempt, "run-id": facts.get("run-id", ""), "job": facts.get("job", "")}

        def give_up(change: AtomicChange) -> None:
            if change.property(ABANDONED_PREFIX + tag):
                return
            if change.ref(tag) is not None or change.ref(claim) is None:
                raise LostRaceError(f"version {version} was completed, or was never decided")
            text = json.dumps({**record, "at-ms": time.time_ns() // 1_000_000})
            change.set_property(ABANDONED_PREFIX + tag, text)
            held = (hold_tag(attempt), back_tag(attempt))
            change.untag(claim, *(name for name in held if change.ref(name) is not None))

        self._change(meta, meta.spec.anchor.name, give_up)
        reached("abandon:unclaimed")
        meta = self.lake.load(meta.spec.name)
        if not meta.abandoned.get(version, True):
            self.undo(meta, version)

    def undo(self, meta: IcebergMetadata, version: int) -> None:
        """See ``PublisherBase``."""
        key = ABANDONED_PREFIX + version_tag(version)
        record = json.loads(meta.anchor.properties[key])
        members = meta.members(version)
        parent = members.parent if members is not None else meta.current
        before, spec = meta.snapshots(parent), meta.spec_of(parent)
        for name in meta.tables:
            self._undo_table(meta, name, version, record["attempt"], before.get(name), spec)
            reached(f"abandon:undone-{name}")

        def finish(change: AtomicChange) -> None:
            if change.property(key) is None or json.loads(str(change.property(key)))["whole"]:
                return
            change.set_property(key, json.dumps({**record, "whole": True}))
            for prefix in (MEMBERS_PREFIX, DESCRIBED_PREFIX):
                if change.property(prefix + version_tag(version)) is not None:
                    change.set_property(prefix + version_tag(version), None)

        self._change(meta, meta.spec.anchor.name, finish)

    def _undo_table(
        self, meta: IcebergMetadata, name: str, version: int, attempt: str, before: int | None, spec: DatasetSpec
    ) -> None:
        tag = version_tag(version)

        def undo(change: AtomicChange) -> None:
            brought = change.ref(tag)
            if brought is not None and brought != before and change.on_main(brought):
                if before is None:
                    change.empty({_ABANDONED: str(version), **NO_GROUP})
                else:
                    change.set_main(before)
                    change.set_buckets(spec.schema_.user, spec.buckets)
            names = (tag, hold_tag(attempt), back_tag(attempt))
            gone = [held for held in names if change.ref(held) is not None]
            if gone:
                change.untag(*gone)

        self._change(meta, name, undo)

    def _change(self, meta: IcebergMetadata, name: str, change: Callable[[AtomicChange], None]) -> None:
        change_again(self.spark, self.settings, meta.spec.name, name, change)
