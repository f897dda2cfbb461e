"""Gives up a decided Delta version that cannot be completed, safely against helpers that try to.

The event ``abandoned`` excludes ``published``. Then each table is undone: a table that has no part of the version gets
the version's own application transaction without a file, so that no slow helper can commit the part any more; a table
that has it gets back the files of the version before. Whoever meets a version half given up goes on with it.
"""

from __future__ import annotations

import time

from pyspark.sql import SparkSession

from dedup_storage.errors import StuckPublicationError
from dedup_storage.faults import reached
from dedup_storage.lake.delta.log import TableLog
from dedup_storage.lake.delta.metadata import MEMBERS, DeltaLake, DeltaMetadata
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.delta.relay import RELAY
from dedup_storage.lake.delta.stage import StagedStore
from dedup_storage.lake.members import Members
from dedup_storage.lake.publishing import LostRaceError
from dedup_storage.lake.retries import small_commits
from dedup_storage.layout import DatasetSpec

__all__ = ["APP", "DeltaAbandonment", "applied", "applied_by", "never_complete", "relay_app", "stuck"]

# Delta's application id of publications; its version is the dataset's version. Another one undoes them.
APP = "dedup-storage"
_UNDOING = f"{APP}-undo"
# Beyond every number of a version made anew.
_ALL = 2**31


class DeltaAbandonment:
    """Gives up versions of one warehouse's datasets.

    Args:
        spark, lake: Where the tables are.
    """

    def __init__(self, spark: SparkSession, lake: DeltaLake) -> None:
        self.spark, self.lake = spark, lake

    def abandon(self, meta: DeltaMetadata, version: int) -> None:
        """Say that the version is given up, and undo what it did.

        Raises:
            LostRaceError: the version was completed, or is not decided.
        """
        if version not in meta.abandoned:
            if version not in meta.versions.claims or version in meta.versions.published:
                raise LostRaceError(f"version {version} was completed, or was never decided")
            self.lake.log(meta.spec.name).abandon(version, {"at-ms": str(time.time_ns() // 1_000_000)})
        reached("abandon:unclaimed")
        meta = self.lake.load(meta.spec.name)
        if version not in meta.abandoned:
            raise LostRaceError(f"version {version} was completed meanwhile")
        if not meta.abandoned[version]:
            self.undo(meta, version)

    def undo(self, meta: DeltaMetadata, version: int) -> None:
        """See ``PublisherBase``."""
        facts = meta.versions.abandoned[version]
        before = meta.snapshots(meta.current) if meta.current else {}
        changed = {name for name in facts.get("staged-tables", "").split(",") if name}
        if facts.get("kind") == "rollback":
            # The version that it brings back may have expired.
            text = facts.get(MEMBERS)
            changed |= set(Members.from_json(text).tables if text else meta.snapshots(int(facts["parent"])))
        snapshots, anew = {}, facts.get("kind") == RELAY
        for name in sorted(changed & meta.tables.keys()):
            snapshots[name] = self._undo_table(meta, meta.tables[name], version, before.get(name), anew=anew)
            reached(f"abandon:undone-{name}")
        if "attempt" in facts:
            # Nobody can commit its files any more, and an erasure would find its users' rows in them for days.
            StagedStore(self.lake.uri(meta.spec.name), self.lake.settings.catalog.properties).discard(facts["attempt"])
        self.lake.log(meta.spec.name).undone(version, {"snapshots": snapshots})

    def _undo_table(self, meta: DeltaMetadata, ref: DeltaRef, version: int, before: int | None, *, anew: bool) -> int:
        log = TableLog(self.spark, self.lake.uri(meta.spec.name, ref.name))
        for attempt in small_commits(lambda error: isinstance(error, LostRaceError)):
            with attempt:
                if anew:
                    # An erasure's commits have transactions of their own, one for each version that it makes anew.
                    log.commit([], relay_app(version), _ALL)
                if applied(ref, version) is None:
                    log.commit([], APP, version)
                if applied_by(ref, _UNDOING, version) is None:
                    wanted = log.files_at(before) if before is not None else []
                    # Where it gave the table another number of buckets, the columns that make them come back too.
                    former = log.generated_anew(None, before) if before is not None else []
                    log.commit([*former, *log.restored(ref, wanted)], _UNDOING, version)
                found = applied_by(ref, _UNDOING, version)
                if found is None:
                    raise LostRaceError(f"version {version} is not undone in the log of {ref.name}")
                return found
        raise AssertionError("unreachable: tenacity reraises")


def stuck(spec: DatasetSpec, ref: DeltaRef, version: int, why: str, found: str) -> StuckPublicationError:
    """The error for a decided version whose part in a table cannot be committed."""
    return never_complete(spec, version, f"what its run staged in {ref.name} cannot be brought in, {why}", found)


def never_complete(spec: DatasetSpec, version: int, why: str, found: str | None = None) -> StuckPublicationError:
    """The error for a decided version that nobody can complete."""
    return StuckPublicationError(
        f"version {version} of {spec.name} is decided and cannot be completed: {why}",
        got=found[:200] if found else None,
        fix=f"Readers are not affected. Give it up: dedup-storage versions abandon {version}, then run its job again.",
    )


def relay_app(version: int) -> str:
    """The application of the commits by which a version makes others anew; theirs are numbered from 1."""
    return f"{APP}-relay-{version}"


def applied(ref: DeltaRef, version: int) -> int | None:
    """The Delta version whose commit brought a dataset's version; ``None`` when none did."""
    return applied_by(ref, APP, version)


def applied_by(ref: DeltaRef, app: str, transaction: int) -> int | None:
    """The Delta version whose commit brought an application's transaction; ``None`` when none did."""
    table = ref.load()
    if (table.transaction_version(app) or 0) < transaction:
        return None
    number = table.version()
    while number > 0 and (ref.load(number - 1).transaction_version(app) or 0) >= transaction:
        number -= 1
    return int(number)
