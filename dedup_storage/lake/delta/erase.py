"""One Delta table without some users: where their rows are, files without them, what is left in files and log."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.errors import UsageError
from dedup_storage.faults import reached
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.layout import bucket_column, bucket_expression, expressions_of
from dedup_storage.lake.delta.log import DELTA_WRITES, TableLog
from dedup_storage.lake.delta.metadata import DeltaMetadata
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.delta.relay import LOG_FOLDER, FilesAnew, Relay, checkpoints, cut_log, log_versions, named_files
from dedup_storage.lake.delta.stage import StagedStore
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.folders import delete_files, is_hidden, list_files, open_folder
from dedup_storage.lake.stored_rows import StoredRows
from dedup_storage.lake.upkeep import Remains, remains_of
from dedup_storage.layout import TableRole
from dedup_storage.spark.rows import buckets_of, text_frame

__all__ = ["Found", "TableEraser"]

# Characters that Delta keeps of a text as a bound, unless a session says otherwise.
_BOUND_LENGTH = 32


@dataclass(frozen=True)
class Found:
    """Where a table has rows of the users.

    Attributes:
        touched: Files with such rows that kept versions name -> the Delta versions that do.
        staged: Such files that runs have staged and not published.
        stray: Whether files that the table's newest state alone names hold such rows.
        current_files: Those of ``touched`` that the current version names.
        told: Entries of the log that have one of the users as a bound.
    """

    touched: Mapping[str, frozenset[int]] = field(default_factory=dict)
    staged: frozenset[str] = frozenset()
    stray: bool = False
    current_files: tuple[str, ...] = ()
    told: int = 0


class TableEraser:
    """Erases users from one table.

    Args:
        spark: Session to read and write with.
        store: What runs have staged in the dataset.
        meta: The dataset's tables.
        table: Its name.
        users: The users, one column with the user column's name.
    """

    def __init__(
        self,
        spark: SparkSession,
        store: StagedStore,
        meta: DeltaMetadata,
        table: str,
        users: DataFrame,
    ) -> None:
        self.store, self.meta, self.table = store, meta, table
        self.ref: DeltaRef = meta.tables[table]
        self.spec, self._properties = meta.spec, self.ref.store
        self.session = run_session(spark)
        for key, value in DELTA_WRITES.items():
            self.session.conf.set(key, value)
        self._schema = self.session.read.format("delta").load(self.ref.uri).schema
        self._given = users

    @property
    def has_users(self) -> bool:
        """Whether the table has the user column."""
        return self.spec.schema_.user in self._schema.names

    @cached_property
    def users(self) -> DataFrame:
        """The users, in the type that this table has."""
        user = self.spec.schema_.user
        given = move_to(self.session, self._given)
        return given.select(F.col(user).cast(self._schema[user].dataType)).distinct()

    @cached_property
    def _stored(self) -> StoredRows:
        return StoredRows(self.session, self.users)

    @cached_property
    def _kept(self) -> tuple[int, ...]:
        """Delta versions of the table that are kept, today's last."""
        kept = self.meta.kept(self.table)
        today = self.meta.snapshots(self.meta.current).get(self.table)
        return (*sorted(kept - {today}), *((today,) if today is not None else ()))

    # -- where ------------------------------------------------------------------------------------------------------

    @cached_property
    def found(self) -> Found:
        """Look for the users' rows in every file of the table that a kept version or a staging run names."""
        named: dict[str, set[int]] = {}
        for snapshot in self._kept:
            for path in live_files(self.ref, snapshot).paths:
                named.setdefault(path, set()).add(snapshot)
        there = set(self._files())
        staged = set(self.store.paths(self.table)) & there - named.keys()
        # A run that stored a sample's users and died left them there.
        newest = set(live_files(self.ref).paths) - named.keys()
        hit = self._holding([*named, *newest, *(staged - newest)])
        touched = {path: frozenset(named[path]) for path in named if path in hit}
        today = self.meta.snapshots(self.meta.current).get(self.table)
        current = tuple(sorted(path for path, snapshots in touched.items() if today in snapshots))
        return Found(touched, frozenset(staged & hit), bool(newest & hit), current, self._told())

    @property
    def unclean(self) -> bool:
        """Whether files or the log tell of the users."""
        return bool(self.found.touched or self.found.stray or self.found.told)

    @property
    def hit(self) -> set[int]:
        """Kept Delta versions with rows of the users, as ``relay`` found them."""
        return {snapshot for signature in self._groups for snapshot in signature}

    def _files(self) -> list[str]:
        """Places of the Parquet files in the table's folder."""
        _, root = open_folder(self.ref.uri, self._properties)
        places = (f.path[len(root) :].strip("/") for f in list_files(self.ref.uri, self._properties))
        return [p for p in places if not is_hidden(p) and p.endswith(".parquet")]

    def _holding(self, paths: Collection[str]) -> set[str]:
        """Those of the files that hold rows of the users; files of other buckets are not opened."""
        inside = [f"{bucket_column(self.spec)}={b}" for b in self._buckets]
        looked = [p for p in paths if not self._in_bucket(p) or any(part in inside for part in p.split("/"))]
        if not looked:
            return set()
        names = self._stored.holding(*(self.ref.place(p) for p in looked))
        return {p for p in looked if p.rpartition("/")[2] in names}

    def _in_bucket(self, path: str) -> bool:
        """Whether a file's place names its bucket among those of the dataset. Stored users of a sample may lie in the
        buckets that it had when they were stored."""
        return self.meta.role(self.table) != TableRole.SAMPLE and any(
            part.startswith(f"{bucket_column(self.spec)}=") for part in path.split("/")
        )

    @cached_property
    def _buckets(self) -> list[int]:
        """Buckets of the users in this table."""
        return buckets_of(self.users, F.expr(bucket_expression(self.spec)))

    def count(self, paths: Collection[str]) -> int:
        """Rows of the users in files."""
        return self._stored.count(*(self.ref.place(p) for p in paths)) if paths else 0

    # -- anew -------------------------------------------------------------------------------------------------------

    @cached_property
    def _groups(self) -> dict[frozenset[int], list[str]]:
        """Touched files by the kept versions that name them: what has one key is there together or not at all."""
        groups: dict[frozenset[int], list[str]] = {}
        for path, snapshots in self.found.touched.items():
            groups.setdefault(snapshots, []).append(path)
        return groups

    def relay(self) -> Relay:
        """Write the touched files anew, where nobody sees them; how the kept versions are then made of them."""
        groups = self._groups.items()
        made = tuple(FilesAnew(tuple(paths), tuple(self._write(paths, max(named)))) for named, paths in groups)
        return Relay(self.table, self._kept, made)

    def _stored_rows(self, paths: Collection[str], snapshot: int) -> DataFrame:
        """Rows of files that a kept Delta version names, by today's columns.

        Raises:
            UsageError: another tool gave a column another name since, or took it away.
        """
        stored = self.ref.load(snapshot)
        self._refuse_lost(field.name for field in stored.schema().fields)
        mode = stored.metadata().configuration.get("delta.columnMapping.mode", "none")
        if mode == "none":
            files = [self.ref.place(p) for p in paths]
            return self.session.read.schema(self._schema).option("basePath", self.ref.uri).parquet(*files)
        # There files have names of their own for columns, which only the log knows.
        rows = self.session.read.format("delta").option("versionAsOf", str(snapshot)).load(self.ref.uri)
        listed = text_frame(self.session, "_name", (p.rpartition("/")[2] for p in map(self.ref.place, paths)))
        name = F.element_at(F.split(F.col("_metadata.file_path"), "/"), -1)
        rows = rows.withColumn("_name", name).join(F.broadcast(listed), "_name", "left_semi")
        kinds = {field.name: field.dataType for field in self._schema.fields}
        return rows.select(*(c if c in rows.columns else F.lit(None).cast(k).alias(c) for c, k in kinds.items()))

    def _refuse_lost(self, stored: Iterable[str]) -> None:
        """Refuse to write rows of a kept version anew by today's columns where these have not all of its own; before
        column mapping was set, files have them under the names of then."""
        lost = [name for name in stored if name not in self._schema.names]
        if lost:
            raise UsageError(
                f"the column {lost[0]} of {self.spec.name}.{self.table} was renamed or dropped by another tool",
                expected=f"the name {lost[0]}, as kept versions have it",
                fix="Nothing was changed. Give it its name back (ALTER TABLE … RENAME COLUMN), or let those versions "
                "expire.",
            )

    def _write(self, paths: Collection[str], snapshot: int) -> list[str]:
        """New files with the rows of some, without the users; gives Delta's actions that add them."""
        rows = self._stored_rows(paths, snapshot)
        user = self.spec.schema_.user
        log = TableLog(self.session, self.ref.uri)
        if self.meta.role(self.table) == TableRole.SAMPLE:
            # Users stored before the dataset had other buckets lie in those of then; the table may have today's since.
            for column, expression in expressions_of(log.metadata()).items():
                rows = rows.withColumn(column, F.expr(expression).cast(self._schema[column].dataType))
        rows = rows.join(F.broadcast(self.users), user, "left_anti").select(*self._schema.names)
        own = list(self.ref.load().metadata().partition_columns)
        keys = [*self.spec.request_key, self.spec.position_column]
        group = self.spec.event_group(self.table)
        if group is not None:
            keys = [self.spec.schema_.user, group.position_column]
        order = [F.col(c) for c in (*own, *keys) if c in self._schema.names]
        if "sampled" in self._schema.names:
            order.insert(len(own), F.col("sampled").desc())
        sorted_rows = (rows.hint("rebalance", *own) if own else rows).sortWithinPartitions(*order)
        return log.write(sorted_rows)

    # -- away -------------------------------------------------------------------------------------------------------

    def remove(self, log: TableLog) -> None:
        """Delete the files that were committed once and that no kept version names, then the log before those."""
        committed = named_files(self.ref, self._properties)
        needed = set(live_files(self.ref).paths) | set(self.store.paths(self.table))
        kept = self.meta.kept(self.table)
        for snapshot in kept:
            needed |= set(live_files(self.ref, snapshot).paths)
        delete_files(self.ref.uri, sorted(committed - needed), self._properties)
        # Their bounds are all that is left of files that a run staged long ago.
        self.store.drop_lost(self.table, self._files())
        reached("forget:deleted")
        cut_log(self.ref, log, min(kept, default=self.ref.load().version()), self._properties)

    # -- what is left -----------------------------------------------------------------------------------------------

    def present(self) -> DataFrame:
        """Those of the users, as texts, that have rows in the Parquet files of the table's folder."""
        return self._stored.present(self.ref.uri)

    def remains(self) -> Remains:
        """What files, named or not, and the log have of the users now."""
        named: dict[str, set[int]] = {}
        for snapshot in self._kept:
            for path in live_files(self.ref, snapshot).paths:
                named.setdefault(self.ref.place(path), set()).add(snapshot)
        outside = [place for place in named if not place.startswith(f"{self.ref.uri}/")]
        return remains_of(self.meta, self.table, self._stored.look(self.ref.uri, *outside), named, self._told())

    def _told(self) -> int:
        """Files that the log gives one of the users as the least or the greatest id of."""
        names = log_versions(self.ref, self._properties)
        folder = f"{self.ref.uri}/{LOG_FOLDER}"
        found = 0
        commits = [f"{folder}/{n}" for n in names if n.endswith(".json")]
        if commits:
            found += self._bounded(self.session.read.text(commits), F.get_json_object("value", "$.add.stats"))
        written = checkpoints(self.ref, self._properties)
        if written:
            # Spark passes over what begins with an underscore, unless it is named.
            rows = self.session.read.schema("add struct<stats: string>").parquet(*written)
            found += self._bounded(rows, F.col("add.stats"))
        return found

    def _bounded(self, entries: DataFrame, stats: Column) -> int:
        user = self.spec.schema_.user
        bounds = F.array(*(F.get_json_object(stats, f"$.{side}['{user}']") for side in ("minValues", "maxValues")))
        told = entries.select(F.explode(bounds).alias("bound")).filter(F.col("bound").isNotNull())
        return self._stored.count_bounds(told, _BOUND_LENGTH, self.ref.uri)
