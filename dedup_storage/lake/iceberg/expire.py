"""Expires versions by policy, and what no version needs any more.

A version that expires loses its name first (the anchor's tag, which makes it a version), then the tags of its other
tables, then its snapshots and the files that no other snapshot holds. A crash in between leaves tags of a version
that is none; the next maintenance removes them. Its run id stays known (a property of the anchor table), so that
running it again still changes nothing.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import takewhile

from py4j.protocol import Py4JJavaError
from pydantic import BaseModel, ConfigDict, Field
from pyiceberg.table import Table
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from tenacity import Retrying, retry_if_exception, stop_after_attempt

from dedup_storage.config import Settings
from dedup_storage.faults import reached
from dedup_storage.lake.iceberg.branch import BRANCH_PREFIX, PART, commit_again, load_java
from dedup_storage.lake.iceberg.metadata import (
    EXPIRED_PREFIX,
    DatasetMetadata,
    VersionInfo,
    ancestors,
    snapshot_summary,
    tags,
)
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.lake.sql import quoted
from dedup_storage.layout import DEFINITION, PROPERTY_PREFIX, DatasetSpec, claim_tag, version_tag

__all__ = ["DAY_MS", "Expiry", "Policy"]

DAY_MS = 86_400_000
_VERSION_OF_TAG = re.compile(r"(?:claim-)?v([1-9][0-9]*)")
_MOST_CHARACTERS = 1_000
_MOST_IDS = 500


class Policy(BaseModel):
    """Which versions stay, and how long leftovers do.

    Attributes:
        keep_versions: The newest so many.
        keep_days: All of the last so many days.
        orphan_days: Staged data and files that nothing names stay so long, since a run may be about to name them.
        abandoned_days: Branches of runs that stopped and did nothing for so long are dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_versions: int = Field(default=10, ge=1)
    keep_days: float = Field(default=7.0, ge=0)
    orphan_days: float = Field(default=3.0, ge=1)
    abandoned_days: float = Field(default=7.0, ge=0)

    def outdated(self, meta: DatasetMetadata, now_ms: int) -> list[VersionInfo]:
        """Versions that are neither among the newest, nor young, nor pinned; oldest first."""
        young = now_ms - self.keep_days * DAY_MS
        older = (meta.info(number) for number in meta.version_numbers[: -self.keep_versions])
        return [info for info in older if info.created_ms < young and not info.pins]


class Expiry:
    """Expiry of one dataset.

    Args:
        spark, tables, settings, spec: As for ``Backfill``.
        policy: What stays.
    """

    def __init__(
        self, spark: SparkSession, tables: TableFormat, settings: Settings, spec: DatasetSpec, policy: Policy
    ) -> None:
        self.spark, self.tables, self.settings, self.spec, self.policy = spark, tables, settings, spec, policy
        self._now_ms = int(time.time() * 1000)

    def expired_versions(self, meta: DatasetMetadata) -> list[int]:
        """Versions that the policy lets go, oldest first; pinned ones stay."""
        kept_snapshots: set[tuple[str, int | None]] = {
            (name, snapshot_id)
            for name, table in meta.tables.items()
            for tag, snapshot_id in tags(table).items()
            if _VERSION_OF_TAG.fullmatch(tag) is None and tag != "main" and not tag.startswith(BRANCH_PREFIX)
        }
        # A run that is at work reads the version its branch began at.
        kept_snapshots |= {
            (name, _beginning(table, tag))
            for name, table in meta.tables.items()
            for tag in tags(table)
            if tag.startswith(BRANCH_PREFIX)
        }
        # Whatever else names a snapshot of the version keeps it: a pin, a sample, somebody's own tag.
        return [
            info.version
            for info in self.policy.outdated(meta, self._now_ms)
            if kept_snapshots.isdisjoint(info.snapshots.items())
        ]

    def expire(self, meta: DatasetMetadata, versions: Iterable[int]) -> None:
        """Remove versions' names, the anchor's first."""
        anchor = self.spec.anchor.name
        for version in versions:
            self._note(meta, version)
            reached("maintain:remembered")
            self.tables.untag(self.spec.name, anchor, version_tag(version))
            reached("maintain:unnamed")
        self.tidy(self.tables.metadata(self.spec.name))

    def remember(self, meta: DatasetMetadata, versions: Iterable[int]) -> None:
        """Keep what versions say of their runs apart from the snapshots that said it, and let these go."""
        for version in versions:
            if claim_tag(version) in tags(meta.anchor):
                self._note(meta, version)
                self.tables.untag(self.spec.name, self.spec.anchor.name, claim_tag(version))

    def _note(self, meta: DatasetMetadata, version: int) -> None:
        facts = {k: v for k, v in meta.claim(version).items() if len(v) <= _MOST_CHARACTERS and k != "staged"}
        text = json.dumps(facts, sort_keys=True)
        anchor = self.spec.anchor.name

        def note() -> None:
            change = load_java(self.spark, self.settings, self.spec.name, anchor).updateProperties()
            change.set(f"{EXPIRED_PREFIX}{version_tag(version)}", text).commit()

        commit_again(note)

    def tidy(self, meta: DatasetMetadata) -> None:
        """Remove tags of versions that are none any more."""
        there = set(meta.version_numbers)
        for name, table in meta.tables.items():
            for tag in tags(table):
                match = _VERSION_OF_TAG.fullmatch(tag)
                # The version after the current one may be in the middle of its publication.
                if match and int(match.group(1)) <= meta.current and int(match.group(1)) not in there:
                    self.tables.untag(self.spec.name, name, tag)
                    reached("maintain:untagged")

    def abandoned(self, meta: DatasetMetadata) -> list[tuple[str, str]]:
        """(table, branch) of runs that stopped long ago."""
        old = self._now_ms - self.policy.abandoned_days * DAY_MS
        found = []
        for name, table in meta.tables.items():
            for tag, snapshot_id in tags(table).items():
                tip = table.snapshot_by_id(snapshot_id)
                if tag.startswith(BRANCH_PREFIX) and tip is not None and tip.timestamp_ms < old:
                    found.append((name, tag))
        return found

    def drop_abandoned(self, branches: Iterable[tuple[str, str]]) -> None:
        """Remove branches; their snapshots go with the next ``remove_snapshots``."""
        for name, branch in branches:
            self._drop(name, branch)

    def _drop(self, name: str, branch: str) -> None:
        def drop() -> None:
            java = load_java(self.spark, self.settings, self.spec.name, name)
            java.manageSnapshots().removeBranch(branch).commit()

        commit_again(drop)

    def unneeded(self, meta: DatasetMetadata, name: str) -> list[int]:
        """Snapshots of a table that no version, pin or branch names, and no run can be about to publish."""
        table = meta.tables[name]
        old = self._now_ms - self.policy.orphan_days * DAY_MS
        kept = set(tags(table).values())
        for tag, snapshot_id in tags(table).items():
            if tag.startswith(BRANCH_PREFIX):
                line = ancestors(table, snapshot_id)
                kept |= {s.snapshot_id for s in takewhile(lambda s: PART in snapshot_summary(s), line)}
        kept |= self._defining(meta, name)
        main = {s.snapshot_id for s in ancestors(table, table.metadata.current_snapshot_id)}
        return [
            s.snapshot_id
            for s in table.metadata.snapshots
            if s.snapshot_id not in kept and (s.snapshot_id in main or s.timestamp_ms < old)
        ]

    def _defining(self, meta: DatasetMetadata, name: str) -> set[int]:
        """Snapshots whose summaries hold the definitions that kept snapshots of a feature group refer to."""
        table, key = meta.tables[name], PROPERTY_PREFIX + DEFINITION
        found: set[int] = set()
        for snapshot_id in set(tags(table).values()):
            for snapshot in ancestors(table, snapshot_id):
                summary = snapshot_summary(snapshot)
                source = table.snapshot_by_id(int(summary.get("source-snapshot-id", 0)))
                if key in summary:
                    found.add(snapshot.snapshot_id)
                    break
                if source is not None and key in snapshot_summary(source):
                    found |= {snapshot.snapshot_id, source.snapshot_id}
                    break
        return found

    def remove_snapshots(self, name: str, snapshot_ids: list[int]) -> None:
        """Remove snapshots and the files that only they hold; the file lists are compared by Spark."""
        catalog = quoted(self.settings.catalog.name)
        for start in range(0, len(snapshot_ids), _MOST_IDS):
            listed = ", ".join(f"{int(s)}L" for s in snapshot_ids[start : start + _MOST_IDS])
            # Nothing but the snapshots named: by default Iceberg would take all that are five days old.
            self._call(
                f"CALL {catalog}.system.expire_snapshots(table => '{self.spec.name}.{name}', "
                f"snapshot_ids => ARRAY({listed}), older_than => TIMESTAMP '1970-01-02 00:00:00')"
            )

    def orphans(self, name: str, *, dry_run: bool) -> int:
        """Remove files of a table's folder that no snapshot names, if older than the safe age; gives their number."""
        before = datetime.now(UTC) - timedelta(days=self.policy.orphan_days)
        catalog = quoted(self.settings.catalog.name)
        rows = self._call(
            f"CALL {catalog}.system.remove_orphan_files(table => '{self.spec.name}.{name}', "
            f"older_than => TIMESTAMP '{before:%Y-%m-%d %H:%M:%S}Z', dry_run => {str(dry_run).lower()})"
        )
        return int(rows.count())

    def _call(self, sql: str) -> DataFrame:
        """Run a procedure that looks at every snapshot, again when one of them went meanwhile: runs drop their own."""
        for attempt in Retrying(retry=retry_if_exception(_gone), stop=stop_after_attempt(5), reraise=True):
            with attempt:
                return self.spark.sql(sql)
        raise AssertionError("unreachable: tenacity reraises")


def _gone(error: BaseException) -> bool:
    return isinstance(error, (Py4JJavaError, PySparkException)) and "NotFoundException" in str(error)


def _beginning(table: Table, branch: str) -> int | None:
    """The snapshot that a run's branch began at."""
    for snapshot in ancestors(table, tags(table)[branch]):
        if PART not in snapshot_summary(snapshot):
            return snapshot.snapshot_id
    return None
