"""A run's work in parts on Delta, which has no branches: descriptions of the parts, beside the tables.

The parts of a run on one table are the rows of a small Delta table of their own (``_runs/<branch>/<table>``). Each row
is numbered and carries Delta's application transaction of that number, so that of two processes that do the same run
only one can store a part, on every store that Delta commits to. A row has the actions that add the part's files and
the places of the files it takes out; no version names any of them before the run is published.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.errors import ConflictError, StorageError, UsageError
from dedup_storage.lake.branch import RUN_ID, BranchPart, branch_gone
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.metadata import DeltaLake
from dedup_storage.lake.delta.segments import file_of_row
from dedup_storage.lake.delta.stage import RUNS_FOLDER, StagedFiles, StagedStore
from dedup_storage.lake.folders import child_folders, delete_files, delete_folder, is_delta_table, list_files
from dedup_storage.lake.runs import Staged, staged_gone
from dedup_storage.lake.segments import Segment

__all__ = ["BRANCH_FACT", "RUNS_FOLDER", "DeltaBranch", "NetChange", "branches_of"]

# Claim fact: the branch whose files the version has.
BRANCH_FACT = "branch"
_TRANSACTION = "part"
_SCHEMA = pa.schema([("number", pa.int64()), ("body", pa.string())])
_TRIES = 30


@dataclass
class NetChange:
    """Net change of several parts; a file that one added and a later one took out counts as neither.

    Attributes:
        added: Place of a file -> Delta's action that adds it, as JSON.
        removed: Places of files that were there before.
    """

    added: dict[str, str] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)

    def apply(self, actions: Iterable[str], removed: Iterable[str]) -> None:
        """One more part."""
        for path in removed:
            if self.added.pop(path, None) is None:
                self.removed.add(path)
        self.added |= {str(json.loads(action)["add"]["path"]): action for action in actions}


class DeltaBranch:
    """One run's work on one table: the ``Branch`` of Delta.

    Args:
        spark: Session to read rows with.
        lake: Where the tables are.
        dataset, table: Which table.
        name: The branch's name, from ``branch_name``.
    """

    def __init__(self, spark: SparkSession, lake: DeltaLake, dataset: str, table: str, name: str) -> None:
        self.spark, self.lake, self.dataset, self.table, self.name = spark, lake, dataset, table, name
        self._properties = lake.settings.catalog.properties
        self._uri = f"{lake.uri(dataset)}/{RUNS_FOLDER}/{name}/{table}"
        self._store = StagedStore(lake.uri(dataset), self._properties)

    # -- the rows -----------------------------------------------------------------------------------------------

    def _bodies(self) -> list[dict[str, Any]]:
        """The rows in order, the one that began the branch first; none where there is no branch."""
        if not self._is_there():
            return []
        try:
            table = self.lake.opened.rows(self._uri)
        except (StorageError, OSError):
            if self._is_there():
                raise
            # Dropped by the same run in another process while this one looked.
            return []
        return [json.loads(text) for text in table.sort_by("number")["body"].to_pylist()]

    def _is_there(self) -> bool:
        return is_delta_table(self._uri, self._properties)

    def _append(self, number: int, body: Mapping[str, Any]) -> bool:
        """Store a row; ``False`` when the same run in another process stored one of that number.

        Raises:
            ConflictError: the branch is gone.
            StorageError: the row could not be stored, or nobody knows whether it was.
        """
        from deltalake import CommitProperties, Transaction, write_deltalake
        from deltalake.exceptions import CommitFailedError, DeltaError

        try:
            table = self.lake.opened.take(self._uri)
            if (table.transaction_version(_TRANSACTION) or 0) != number - 1:
                return False
            properties = CommitProperties(
                app_transactions=[Transaction(_TRANSACTION, number)], max_commit_retries=_TRIES
            )
            rows = pa.Table.from_pylist([{"number": number, "body": json.dumps(body)}], schema=_SCHEMA)
            write_deltalake(table, rows, mode="append", commit_properties=properties)
        except CommitFailedError:
            return False
        except (DeltaError, StorageError, OSError) as error:
            bodies = self._bodies()
            if not bodies and not self._is_there():
                raise branch_gone(self.dataset, self.table) from error
            if bodies[number - 1 : number] != [json.loads(json.dumps(body))]:
                raise self._trouble(error) from error
        return True

    def _trouble(self, error: Exception) -> StorageError:
        return StorageError(
            f"the parts of the run on {self.dataset}.{self.table} cannot be stored: {str(error).splitlines()[0][:300]}",
            fix="Run the job again with the same run id.",
        )

    # -- Branch -------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """See ``Branch``."""
        return bool(self._bodies())

    def begun_at(self) -> int | None:
        """See ``Branch``."""
        bodies = self._bodies()
        return int(bodies[0]["base"]) if len(bodies) > 1 else None

    def parts(self) -> list[BranchPart]:
        """See ``Branch``."""
        return [BranchPart(body["facts"]) for body in self._bodies()[1:]]

    def open(self, base: int) -> None:
        """See ``Branch``."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        self.drop()
        try:
            DeltaTable.create(self._uri, schema=_SCHEMA, mode="ignore", storage_options=self.lake.options)
        except (DeltaError, OSError) as error:
            raise self._trouble(error) from error
        # The same run at work in another process may have been faster.
        self._append(1, {"base": base})

    def drop(self) -> None:
        """See ``Branch``.

        A publication writes down which files it takes before it looks whether the branch is still there. So the branch
        goes first, and its files after that unless somebody has written them down or published them.
        """
        _, paths = self.held()
        delete_folder(self._uri, self._properties)
        paths -= set(self._store.paths(self.table)) if paths else set()
        if paths and not self._published():
            delete_files(self.lake.uri(self.dataset, self.table), paths, self._properties)

    def _published(self) -> bool:
        """Whether a version was decided that may have the branch's files."""
        claims = self.lake.log(self.dataset).load().claims
        return any(facts.get(BRANCH_FACT) == self.name for facts in claims.values())

    def swap(self, staged: Staged, removed: Iterable[str], facts: Mapping[str, str]) -> None:
        """See ``Branch``."""
        gone = sorted(removed)
        found = self._store.get(staged.attempt, self.table)
        if found is None:
            raise staged_gone(self.table, facts[RUN_ID])
        body = {"facts": dict(facts), "actions": found.actions, "removed": gone}
        try:
            self._store_part(body)
        except ConflictError:
            self._store.discard(staged.attempt)
            raise
        self._store.forget(staged.attempt)

    def _store_part(self, body: Mapping[str, Any]) -> None:
        for _ in range(_TRIES):
            bodies = self._bodies()
            if not bodies:
                break
            if any(not set(body["removed"]).isdisjoint(other["removed"]) for other in bodies[1:]):
                raise ConflictError(
                    f"the same run in another process rewrote the same segments of {self.dataset}.{self.table}",
                    fix="Nothing was published. Run the job again.",
                )
            if self._append(len(bodies) + 1, body):
                return
        raise branch_gone(self.dataset, self.table)

    def merge(
        self,
        values: DataFrame,
        keys: Iterable[str],
        changed: Mapping[str, str],
        segments: Iterable[Segment],
        facts: Mapping[str, str],
    ) -> None:
        """Not done on Delta.

        Raises:
            UsageError: always.
        """
        raise UsageError("Delta tables have no rows hidden by deletion vectors", fix="Choose another strategy.")

    def rows(self) -> DataFrame:
        """See ``Branch``."""
        base, net = self._base(), self.net()
        uri = self.lake.uri(self.dataset, self.table)
        spec = self.lake.load(self.dataset).spec.partitioned(self.table)
        rows = self.spark.read.format("delta").option("versionAsOf", str(base)).load(uri)
        schema = rows.schema
        if net.removed:
            places = self.spark.createDataFrame(pa.table({"_place": pa.array(sorted(net.removed), pa.string())}))
            rows = rows.withColumn("_place", file_of_row(spec)).join(F.broadcast(places), "_place", "left_anti")
            rows = rows.select(*schema.names)
        if not net.added:
            return rows
        reader = self.spark.read.schema(schema).option("basePath", uri)
        added = reader.parquet(*(f"{uri}/{path}" for path in sorted(net.added)))
        return rows.unionByName(added.select(*schema.names))

    def count(self) -> int:
        """See ``Branch``."""
        net, ref = self.net(), self.lake.ref(self.dataset, self.table)
        before = live_files(ref, self._base())
        return before.rows - before.at(net.removed).rows + StagedFiles(self.table, tuple(net.added.values())).rows

    # -- publication --------------------------------------------------------------------------------------------

    def _base(self) -> int:
        base = self.begun_at()
        if base is None:
            raise branch_gone(self.dataset, self.table)
        return base

    def net(self) -> NetChange:
        """What all parts together change."""
        net = NetChange()
        for body in self._bodies()[1:]:
            net.apply(body["actions"], body["removed"])
        return net

    def held(self) -> tuple[int | None, set[str]]:
        """What a branch needs to go on: the Delta version it began at, and the files its parts added."""
        bodies = self._bodies()
        added = {path for body in bodies[1:] for path in _paths(body["actions"])}
        return (int(bodies[0]["base"]) if bodies else None), added

    def last_ms(self) -> float:
        """When it last stored something, in milliseconds since the epoch."""
        return max((f.mtime_ns / 1e6 for f in list_files(self._uri, self._properties)), default=0.0)

    def stage(self, base: int | None, attempt: str, facts: Mapping[str, str] | None) -> None:
        """Stage the net change of the parts under an attempt, for today's table.

        Args:
            base: The Delta version that the branch began at; ``None`` where its version expired.
            attempt: Names what is published.
            facts: To keep with the table's part of the version.

        Raises:
            ConflictError: files that the run takes out are gone, or the branch was dropped meanwhile.
        """
        if base is None or self.begun_at() != base:
            raise branch_gone(self.dataset, self.table)
        net = self.net()
        live = live_files(self.lake.ref(self.dataset, self.table)).at(net.removed)
        if live.table.num_rows != len(net.removed):
            raise ConflictError(
                f"files of {self.dataset}.{self.table} that this run replaces are gone",
                fix="Nothing was published. Run the job again.",
            )
        staged = StagedFiles(
            table=self.table,
            actions=tuple(net.added.values()),
            facts=facts,
            removed=tuple(sorted(net.removed)),
            borrowed=True,
        )
        self._store.put(attempt, staged)
        # See ``drop``: from here on the files stay, if they were still there.
        if self.net() != net:
            raise branch_gone(self.dataset, self.table)


def branches_of(lake: DeltaLake, dataset: str, table: str) -> list[str]:
    """Names of the branches of runs that are at work on a table, or were stopped there."""
    root, properties = f"{lake.uri(dataset)}/{RUNS_FOLDER}", lake.settings.catalog.properties
    return [name for name in child_folders(root, properties) if is_delta_table(f"{root}/{name}/{table}", properties)]


def _paths(actions: Iterable[str]) -> list[str]:
    return [str(json.loads(action)["add"]["path"]) for action in actions]
