"""Publication on Delta: many tables, one atomic step, no lock, no server.

A run's data lies in files that no version of a table names (``delta_stage``). To publish version N+1:

1. finish whatever another run decided but did not complete;
2. check that nothing published since the run began contradicts it;
3. append the event ``claim`` N+1 to the table of events, naming the attempt. Delta accepts it from exactly one
   writer, so this decides the version;
4. commit each table's staged files to its log, once, marked by Delta's application transaction N+1, the anchor last;
   then append ``published`` N+1 with the Delta version of every table. Readers see the version from here on.

Steps 1 and 4 are the same code, safe to repeat and safe to run twice at once: a crash after 3 is finished by the
next run, whoever it is; a crash before 3 leaves only files that nobody names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pyspark.sql import SparkSession

from dedup_storage.errors import ForeignCommitError, StorageError, UsageError
from dedup_storage.faults import reached
from dedup_storage.lake.delta.abandon import (
    APP,
    DeltaAbandonment,
    applied,
    applied_by,
    never_complete,
    relay_app,
    stuck,
)
from dedup_storage.lake.delta.branch import BRANCH_FACT, DeltaBranch
from dedup_storage.lake.delta.files import live_files, replaced_files
from dedup_storage.lake.delta.log import TableLog
from dedup_storage.lake.delta.metadata import DESCRIBED, HARMLESS, MEMBERS, TABLE_FACTS, DeltaLake, DeltaMetadata
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.delta.relay import RELAY, Relay, relay_table
from dedup_storage.lake.delta.stage import StagedFiles, StagedStore
from dedup_storage.lake.facts import BUCKETS, CHANGED, COLUMNS, ROWS_KEPT
from dedup_storage.lake.members import Member, Members
from dedup_storage.lake.protocol import UNTAGGED
from dedup_storage.lake.publishing import LostRaceError, PublisherBase, restored_version, version_facts
from dedup_storage.lake.runs import Run, files_lost
from dedup_storage.lake.upkeep import COMING_AND_GOING
from dedup_storage.layout import DEFINITION, DatasetSpec

__all__ = ["APP", "MOVED", "DeltaPublisher"]

# Fact of a version that takes in what other tools' compaction left: table -> Delta version, as JSON.
MOVED = "moved"
# Delta's property of a table of which no file may be taken out.
_APPEND_ONLY = "delta.appendOnly"


class DeltaPublisher(PublisherBase[DeltaMetadata]):
    """Publishes staged files of one warehouse."""

    lake: DeltaLake
    raced_for = "table of versions"

    def __init__(self, spark: SparkSession, lake: DeltaLake) -> None:
        self.spark, self.settings, self.lake = spark, lake.settings, lake
        self._abandonment = DeltaAbandonment(spark, lake)

    def store(self, dataset: str) -> StagedStore:
        """Where attempts are described."""
        return StagedStore(self.lake.uri(dataset), self.lake.settings.catalog.properties)

    def log(self, dataset: str, table: str) -> TableLog:
        """One table's log."""
        return TableLog(self.spark, self.lake.uri(dataset, table))

    def _prepare(self, meta: DeltaMetadata, name: str, run: Run) -> None:
        """Stage what a run's branch changes in a table; in one that it leaves alone no file, unless it staged some."""
        self._replace_left(meta, name, run)
        if run.segments is None:
            return
        dataset, facts = meta.spec.name, run.table_facts.get(name)
        if name in run.segments:
            branch = DeltaBranch(self.spark, self.lake, dataset, name, str(run.branch))
            branch.stage(meta.snapshots(run.base).get(name), run.attempt, facts)
            reached(f"publish:restaged-{name}")
        elif self.store(dataset).get(run.attempt, name) is None:
            self.store(dataset).put(run.attempt, StagedFiles(name, facts=facts))

    def _replace_left(self, meta: DeltaMetadata, name: str, run: Run) -> None:
        """Let what was staged in a table replace what versions that were rolled back left in it."""
        store = self.store(meta.spec.name)
        if meta.role(name) not in COMING_AND_GOING or name in (run.segments or ()):
            return
        staged = store.get(run.attempt, name)
        new = not meta.current or name not in meta.snapshots(meta.current)
        left = tuple(live_files(meta.tables[name]).paths) if new else ()
        if staged is not None and left != staged.removed:
            store.put(run.attempt, replace(staged, removed=left))

    def _claim_and_complete(self, meta: DeltaMetadata, version: int, run: Run, members: Sequence[str]) -> int:
        spec, tables = meta.spec, sorted({*members, *self.store(meta.spec.name).tables(run.attempt)})
        facts = {
            **version_facts(run),
            "attempt": run.attempt,
            "staged-tables": ",".join(tables),
            MEMBERS: self._members(meta, run, tables).to_json(),
        }
        if run.branch is not None:
            facts[BRANCH_FACT] = run.branch
        if run.described is not None:
            facts[DESCRIBED] = run.described.to_json()
        if MOVED in facts:
            # What the run found when it began may lack a version that came between.
            facts[MOVED] = json.dumps(self.compacted(meta))
        self._refuse_append_only(meta, run, facts, tables)
        reached("publish:before-claim")
        if not self.lake.log(spec.name).claim(version, facts, restored_version(meta, run)):
            raise LostRaceError(f"version {version} was decided by another run")
        reached("publish:after-claim")
        self.complete(self.lake.load(spec.name), version)
        return version

    def _refuse_append_only(
        self, meta: DeltaMetadata, run: Run, facts: Mapping[str, str], tables: Sequence[str]
    ) -> None:
        """Refuse to decide a version that takes files out of tables which another tool lets nobody take files out of.

        Raises:
            UsageError: names the table.
        """
        target = restored_version(meta, run)
        whole = target is not None or facts.get("kind") == RELAY
        for name in meta.snapshots(target) if target is not None else tables:
            ref = meta.tables.get(name)
            if ref is None or ref.properties.get(_APPEND_ONLY, "false").lower() != "true":
                continue
            staged = self.store(meta.spec.name).get(run.attempt, name)
            if whole or (staged is not None and (staged.replaced is not None or staged.removed)):
                raise UsageError(
                    f"the table {meta.spec.name}.{name} takes appends alone: another tool set {_APPEND_ONLY}",
                    fix="Nothing was published. Unset it (ALTER TABLE … UNSET TBLPROPERTIES), and run the job again.",
                )

    def _members(self, meta: DeltaMetadata, run: Run, tables: Sequence[str]) -> Members:
        """What this attempt is to bring into which tables, all of it there.

        Raises:
            StorageError: something of it is gone.
            VersionNotFoundError: the version that it brings back has expired.
        """
        before = meta.snapshots(meta.current) if meta.current else {}
        target = restored_version(meta, run)
        if target is not None:
            rows = meta.rows(target)
            found = {n: Member(total=rows.get(n), snapshot=s) for n, s in meta.snapshots(target).items()}
            return Members(meta.current, tuple(found), found)
        found = {}
        for name in tables:
            staged = self.store(meta.spec.name).get(run.attempt, name)
            if staged is None:
                raise StorageError(
                    f"what the run {run.run_id} staged in {meta.spec.name}.{name} is gone",
                    fix="Nothing was published. Run the job again with the same run id.",
                )
            lost = self.store(meta.spec.name).lost(staged)
            if lost:
                raise files_lost(f"{meta.spec.name}.{name}", run.run_id, lost)
            found[name] = Member(rows=staged.rows, files=len(staged.actions))
        left_out = {*run.facts.get(UNTAGGED, "").split(",")}
        # An erasure changes tables of samples and of other versions too, which the newest version does not have.
        named = before if run.facts.get("kind") == RELAY else dict.fromkeys((*before, *found))
        return Members(meta.current, tuple(n for n in named if n not in left_out), found)

    def abandon(self, meta: DeltaMetadata, version: int) -> None:
        """See ``PublisherBase``."""
        self._abandonment.abandon(meta, version)

    def undo(self, meta: DeltaMetadata, version: int) -> None:
        """See ``PublisherBase``."""
        self._abandonment.undo(meta, version)

    def complete(self, meta: DeltaMetadata, version: int) -> None:
        """Commit a decided version's files to the tables' logs, the anchor last, and say so."""
        facts, dataset, anchor = meta.claim(version), meta.spec.name, meta.spec.anchor.name
        body: dict[str, dict[str, Any]] = {"snapshots": {}, "rows": {}}
        if meta.current:
            before = meta.versions.published[meta.current]
            body = {key: dict(values) for key, values in before.items()}
        if facts.get("kind") == "rollback":
            restored = meta.versions.published.get(int(facts["parent"]))
            if restored is None:
                # Releases that did not keep it from expiry left such versions.
                raise never_complete(meta.spec, version, f"it brings back version {facts['parent']}, which has expired")
            body = {key: dict(values) for key, values in restored.items()}
            changed = list(body["snapshots"])
        else:
            changed = [name for name in facts["staged-tables"].split(",") if name]
        # What a version says of its own tables is not said of the next one's.
        body.pop(TABLE_FACTS, None)
        body["snapshots"] |= json.loads(facts.get(MOVED, "{}"))
        moved: dict[str, dict[str, int]] = {}
        for name in sorted(changed, key=lambda n: (n == anchor, n)):
            ref = meta.tables[name] if name in meta.tables else self.lake.ref(dataset, name)
            own: Mapping[str, str] = {}
            if facts.get("kind") == RELAY:
                anew = self._relay(meta.spec, ref, facts["attempt"], version)
                if anew is None:
                    return  # another run completed it meanwhile
                number, moved[name] = anew
                if name not in body["snapshots"]:
                    continue
            elif facts.get("kind") == "rollback":
                number = self._restore(dataset, ref, body["snapshots"][name], version)
            else:
                part = self._apply(meta, ref, facts["attempt"], version)
                if part is None:
                    return  # another run completed it meanwhile
                number, own = part
            reached(f"publish:after-pick-{name}")
            body["snapshots"][name] = number
            body["rows"][name] = live_files(ref, number).rows
            if DEFINITION in own:
                body.setdefault("definitions", {})[name] = own[DEFINITION]
            if said := {key: own[key] for key in (ROWS_KEPT, CHANGED, COLUMNS) if key in own}:
                body.setdefault(TABLE_FACTS, {})[name] = said
        for name in filter(None, facts.get(UNTAGGED, "").split(",")):
            for values in body.values():
                values.pop(name, None)
        self.lake.log(dataset).publish(version, body, self._moved(meta, moved) if moved else None)
        reached(f"publish:after-tag-{anchor}")
        if "attempt" in facts:
            self.store(dataset).forget(facts["attempt"])
        self.lake.log(dataset).tidy()

    def _apply(
        self, meta: DeltaMetadata, ref: DeltaRef, attempt: str, version: int
    ) -> tuple[int, Mapping[str, str]] | None:
        """Commit an attempt's staged files to a table once; gives the Delta version that has them, and the facts that
        were staged with them; ``None`` when another run completed the version."""
        spec = meta.spec
        for retry in self._retrying():
            with retry:
                staged = self.store(spec.name).get(attempt, ref.name)
                if staged is None:
                    self._refuse_pending(spec, ref, version)
                    return None
                if applied(ref, version) is None:
                    self._refuse_lost(spec, ref, version, staged)
                    at = None
                    if BUCKETS in (staged.facts or {}):
                        at = self._whole_at(meta, ref, version)
                    removed = _taken_out(spec, ref, staged, version)
                    log = self.log(spec.name, ref.name)
                    anew = [] if staged.generated is None else log.generated_anew(staged.generated)
                    log.commit([*anew, *removed, *staged.actions], APP, version, written=not anew, at=at)
                found = applied(ref, version)
                if found is None:
                    raise LostRaceError(f"version {version} is not in the log of {ref.name}")
                return found, staged.facts or {}
        return None

    def _refuse_pending(self, spec: DatasetSpec, ref: DeltaRef, version: int) -> None:
        """Nothing staged is left of a version that another run completed, or gave up; of a pending one it is gone."""
        versions = self.lake.log(spec.name).load()
        if version not in versions.published and version not in versions.abandoned:
            raise stuck(spec, ref, version, "it is gone", "no description of the staged files")

    def _refuse_lost(self, spec: DatasetSpec, ref: DeltaRef, version: int, staged: StagedFiles) -> None:
        for place, text in self.store(spec.name).lost(staged)[:1]:
            raise stuck(spec, ref, version, "a file of it is not as it was written", f"{place}: {text}")

    def _whole_at(self, meta: DeltaMetadata, ref: DeltaRef, version: int) -> int:
        """The Delta version of a table of which all is taken out: what it holds is what was read of it.

        Raises:
            StuckPublicationError: another tool wrote to it since, and no file that comes in has that.
        """
        at = int(ref.load().version())
        foreign = self._foreign(meta, ref, meta.snapshots(meta.current)[ref.name])
        # Looked at again: it may have been completed by another run in between.
        if foreign and applied(ref, version) is None:
            found = f"Delta version {foreign[0].get('version')} ({foreign[0].get('operation')})"
            why = "another tool wrote to the table meanwhile, and giving the version up takes that out"
            raise stuck(meta.spec, ref, version, why, found)
        return at

    def _relay(self, spec: DatasetSpec, ref: DeltaRef, attempt: str, version: int) -> tuple[int, dict[str, int]] | None:
        """Make a table's kept versions anew; gives the newest, and old -> new; ``None`` when it is done."""
        store, dataset = self.store(spec.name), spec.name
        for retry in self._retrying():
            with retry:
                text, staged = store.read_note(attempt, ref.name), store.get(attempt, ref.name)
                if text is None or staged is None:
                    self._refuse_pending(spec, ref, version)
                    return None
                if applied(ref, version) is None:
                    self._refuse_lost(spec, ref, version, staged)
                relay = Relay.from_json(text)
                markers = [(relay_app(version), n + 1) for n in range(len(relay.snapshots) - 1)]
                made = relay_table(ref, self.log(dataset, ref.name), relay, [*markers, (APP, version)], applied_by)
                return made[-1], {str(old): new for old, new in zip(relay.snapshots, made, strict=False)}
        raise AssertionError("unreachable: tenacity reraises")

    def _moved(self, meta: DeltaMetadata, moved: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """What the event says of versions made anew: where they are now, and how many rows they have."""
        rows = {
            name: {str(new): live_files(meta.tables[name], new).rows for new in found.values()}
            for name, found in moved.items()
        }
        tags = {
            f"{table}/{name}": moved[table][str(snapshot)]
            for (table, name), snapshot in meta.versions.tags.items()
            if str(snapshot) in moved.get(table, {})
        }
        return {"snapshots": moved, "rows": rows, "tags": tags}

    def _restore(self, dataset: str, ref: DeltaRef, target: int, version: int) -> int:
        """Give a table the content of an older Delta version, as a new one."""
        for retry in self._retrying():
            with retry:
                log = self.log(dataset, ref.name)
                if applied(ref, version) is None:
                    log.commit(log.restored(ref, log.files_at(target)), APP, version, written=True)
                found = applied(ref, version)
                if found is None:
                    raise LostRaceError(f"version {version} is not in the log of {ref.name}")
                return found
        raise AssertionError("unreachable: tenacity reraises")

    def compacted(self, meta: DeltaMetadata) -> dict[str, int]:
        """Tables that are ahead of the newest version by other tools' compaction alone -> their Delta version."""
        found = {}
        for name, number in meta.snapshots(meta.current).items() if meta.current else ():
            table = meta.tables[name].load()
            newer = table.history(table.version() - number) if table.version() > number else []
            operations = [str(entry.get("operation", "")) for entry in newer]
            if "OPTIMIZE" in operations and all(operation.startswith(HARMLESS) for operation in operations):
                found[name] = int(table.version())
        return found

    def _refuse_foreign(self, meta: DeltaMetadata, name: str) -> None:
        """A table must hold the current version: a commit from elsewhere belongs to no version."""
        ref = meta.tables[name]
        expected = meta.snapshots(meta.current).get(name) if meta.current else None
        foreign: Sequence[Any] = ()
        if expected is None and (rows := live_files(ref).paths):
            # They are of versions that were rolled back, or somebody else's.
            before = (meta.snapshots(version) for version in meta.version_numbers)
            expected = max((found[name] for found in before if name in found), default=None)
            foreign = rows if expected is None else ()
        if expected is not None:
            foreign = self._foreign(meta, ref, expected)
        if not foreign:
            return
        if meta.following in self.lake.log(meta.spec.name).load().claims:
            raise LostRaceError("another version was decided")
        raise ForeignCommitError(
            f"the table {meta.spec.name}.{name} was changed outside the toolkit",
            expected=f"its log at version {meta.current}",
            got=f"Delta version {ref.load().version()}",
            fix="Write through dedup_storage, or return to a version: dedup-storage versions rollback N.",
        )

    @staticmethod
    def _foreign(meta: DeltaMetadata, ref: DeltaRef, expected: int) -> list[Mapping[str, Any]]:
        """Commits to a table since a Delta version of it that may have changed rows, newest first."""
        undone = [tables[ref.name] for tables in meta.versions.undone.values() if ref.name in tables]
        # What an abandoned version did to the table was undone by a commit of the toolkit's own.
        table, expected = ref.load(), max((expected, *undone))
        newer = table.history(table.version() - expected) if table.version() > expected else []
        return [entry for entry in newer if not str(entry.get("operation", "")).startswith(HARMLESS)]

    def discard(self, spec: DatasetSpec, run: Run) -> None:
        """Remove an attempt's staged files, unless its version is decided."""
        meta = self.lake.find(spec.name)
        if meta is None:
            return
        if meta.pending is not None and meta.claim(meta.pending).get("attempt") == run.attempt:
            return
        if run.attempt in meta.decided:
            return
        self.store(spec.name).discard(run.attempt)

    def discard_former(self, meta: DeltaMetadata, run: Run) -> None:
        """See ``PublisherBase``."""
        self.let_go(meta, run.run_id, besides=run.attempt)

    def let_go(self, meta: DeltaMetadata, run_id: str, besides: str | None = None) -> set[str]:
        """Remove what attempts of a run staged; gives the tables.

        What was decided stays. Where a run was killed just after its version was published, its description is there
        still: it goes, and the files are the tables' own.
        """
        store, found = self.store(meta.spec.name), set[str]()
        # Descriptions of former releases' erasures do not name their attempt: the versions that they decided do.
        for attempt in {*store.attempts(), *meta.decided}:
            if attempt.partition("/")[0] != run_id or attempt == besides:
                continue
            version = meta.decided.get(attempt)
            if version is None:
                found |= set(store.take_back(attempt, partial(self._has_decided, meta.spec.name, attempt)))
            elif version != meta.pending:
                store.forget(attempt)
        return found

    def _has_decided(self, dataset: str, attempt: str) -> bool:
        return any(facts.get("attempt") == attempt for facts in self.lake.log(dataset).load().claims.values())


def _taken_out(spec: DatasetSpec, ref: DeltaRef, staged: StagedFiles, version: int) -> list[str]:
    """The actions that take out what an attempt replaces."""
    if staged.replaced is not None:
        return replaced_files(spec, ref, staged)
    if not staged.removed:
        return []
    live = live_files(ref).at(staged.removed)
    if live.table.num_rows != len(staged.removed):
        found = f"{live.table.num_rows:,} of {len(staged.removed):,} files that it replaces"
        raise stuck(spec, ref, version, "another tool took out files that it replaces", found)
    return live.removals()
