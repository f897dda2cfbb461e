"""Layout ``user``: a log's lists laid into the lists of its users, and what is new staged.

One shuffle of the requests with their lists, by user bucket, and beside them the events that the dataset holds of the
day's users, in pieces of their lists. Both are sorted by user and matched in a stream (``windows.stream``): a task
holds a batch of rows and one user's list, whatever the bucket holds. What is kept of it has no list any more.

    requests (R rows)  ┐
    events -> pieces   ├─ union ─ shuffle by bucket ─ sort ─ match ─ kept ─┬─ requests
    of users' lists    ┘                                                   └─ new events
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.errors import ConflictError
from dedup_storage.event_groups import RUNS_TYPE, EventGroup, element_type
from dedup_storage.lake.engine.sessions import move_to
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.layout import DatasetSpec
from dedup_storage.spark.types import ddl, fingerprint, struct_of
from dedup_storage.windows.stream import StreamGroup, UserStream
from dedup_storage.windows.tasks import LayTask, PieceTask

__all__ = ["STREAM_SETTINGS", "GrownListsError", "Laid", "lay", "refuse_grown", "row_digest", "row_facts", "tasks_for"]

_KIND, _PLACE, _BUCKET = "_dedup_kind", "_dedup_place", "_dedup_bucket"
_NEW, _EVENT, _DIGEST = "_dedup_new_", "_dedup_event", "decimal(38,0)"
# Stored bytes that are worth a task of their own.
_TASK_BYTES = 4 * 1024**2
STREAM_SETTINGS = {
    # What a task holds of the rows at once.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(64 * 1024**2),
    # Partitions without rows are joined to others although the rows are kept: each would start Python for nothing, and
    # be a task of every table that is written of them.
    "spark.sql.optimizer.canChangeCachedPlanOutputPartitioning": "true",
    # A task of Python costs as much as some megabytes that it is given, whatever there is to do.
    "spark.sql.adaptive.coalescePartitions.minPartitionSize": str(_TASK_BYTES),
}


class GrownListsError(ConflictError):
    """Users' lists grew since a log was laid into them; nothing was published."""


@dataclass(frozen=True)
class Laid:
    """A log's requests, laid.

    Attributes:
        handle: The dataset.
        frame: Request rows with their runs, without the lists that are windows; their new events; kept while the write
            goes on.
        rows: Table -> rows that were handed on.
        seen: Table -> how many they were, and the sum of their digests; known once they are staged.
    """

    handle: Handle
    frame: DataFrame
    rows: dict[str, DataFrame] = field(default_factory=dict)
    seen: dict[str, Observation] = field(default_factory=dict)

    @property
    def spec(self) -> DatasetSpec:
        """The dataset."""
        return self.handle.spec

    def requests(self) -> DataFrame:
        """Request rows as they are stored."""
        return self._watched(self.spec.anchor.name, self.audited().select(*self._stored_columns()))

    def audited(self) -> DataFrame:
        """Request rows as they are stored, with the columns that stand for their lists."""
        return self.frame.drop(*(_NEW + group.name for group in self.spec.events))

    def events(self, group: EventGroup) -> DataFrame:
        """New events of a group, as they are stored."""
        user, date = self.spec.schema_.user, self.spec.event_date_column
        epoch = F.trunc(F.col(str(date)), "month") if self.spec.has_epochs else F.lit(None).cast("date")
        rows = self.frame.select(user, epoch.alias(group.epoch_column), F.explode(_NEW + group.name).alias(_EVENT))
        events = rows.select(
            user,
            F.col(_EVENT)["position"].alias(group.position_column),
            group.epoch_column,
            *(F.col(_EVENT)[f"v{number}"].alias(c) for number, c in enumerate(group.columns)),
        )
        # They lie by bucket: sorted as they are stored, nothing is shuffled.
        order = [group.epoch_column, _BUCKET, user, group.position_column]
        events = self._watched(group.table, events)
        return events.withColumn(_BUCKET, self.handle.bucket).sortWithinPartitions(*order).drop(_BUCKET)

    def release(self) -> None:
        """Let go of what is kept."""
        self.frame.unpersist()

    def _stored_columns(self) -> list[str]:
        made = self.spec.runs_columns
        return [c for c in self.frame.columns if c in self.spec.anchor.columns or c in made]

    def _watched(self, table: str, rows: DataFrame) -> DataFrame:
        self.rows[table], self.seen[table] = rows, Observation()
        return rows.observe(self.seen[table], *row_facts(self.spec, rows))


def tasks_for(stored_bytes: int) -> int:
    """How many tasks so many bytes of files are worth."""
    return max(1, -(-stored_bytes // _TASK_BYTES))


def row_facts(spec: DatasetSpec, rows: DataFrame) -> tuple[Column, Column]:
    """How many rows of requests or events there are, ``rows``, and the ``sum`` of their digests."""
    return F.count(F.lit(1)).alias("rows"), F.sum(row_digest(spec, rows)).alias("sum")


def row_digest(spec: DatasetSpec, rows: DataFrame) -> Column:
    """Digest of all values of a row of requests or events; places of nulls inside lists and of runs count."""
    runs = [column for column in spec.runs_columns if column in rows.columns]
    plain = fingerprint([f for f in rows.schema.fields if f.name not in runs], strict=True)
    told = [part for r in runs for part in (F.size(r), F.col(r)["start"], F.col(r)["length"])]
    return F.xxhash64(plain, *told).cast(_DIGEST)


def lay(handle: Handle, base: Cut, requests: DataFrame, users: DataFrame, *, few: bool) -> Laid:
    """Lay request rows into the lists of their users.

    Args:
        handle: The dataset; ``requests`` belongs to a session of the run's own.
        base: The version whose events there are; version 0 has none.
        requests: Request rows with their lists, the event date, and columns that go along.
        users: The users of these rows, one column.
        few: They may be broadcast, each as often as it is there: to find them once each would be a shuffle.
    """
    spec, schema, session = handle.spec, handle.spec.schema_, requests.sparkSession
    for key, value in STREAM_SETTINGS.items():
        session.conf.set(key, value)
    rows = requests.select(
        *requests.columns, F.lit(len(spec.events)).alias(_KIND), F.lit(None).cast("bigint").alias(_PLACE)
    )
    for number, group in enumerate(spec.events):
        if group.table in base.snapshots:
            known = move_to(session, base.stored(group.table))
            known = known.join(F.broadcast(users) if few else users.distinct(), schema.user, "left_semi")
            if few:
                # Each partition would be a task of Python, however little lies in it: one for each month and bucket.
                known = known.coalesce(tasks_for(base.meta.totals(group.table, base.snapshots[group.table]).bytes))
            else:
                # They were shuffled; pieces are of events that lie together.
                known = known.sortWithinPartitions(schema.user, group.position_column)
            rows = rows.unionByName(_pieces(spec, group, number, known), allowMissingColumns=True)
    times = [schema.event_time] if schema.event_time else []
    rows = rows.withColumn(_BUCKET, handle.bucket).repartition(_BUCKET).drop(_BUCKET)
    rows = rows.sortWithinPartitions(*dict.fromkeys([schema.user, _KIND, _PLACE, *times, *schema.request]))
    types = {f.name: ddl(f.dataType) for f in requests.schema.fields}
    made = {g.runs_column: RUNS_TYPE for g in spec.events} | {_NEW + g.name: _new_type(spec, g) for g in spec.events}
    stored = struct_of({**types, **made})
    groups = [StreamGroup(g.columns, g.newest_first, g.runs_column, _NEW + g.name) for g in spec.events]
    stream = LayTask(UserStream(schema.user, _KIND, _PLACE, groups), to_arrow_schema(stored))
    return Laid(handle, rows.mapInArrow(stream, stored).persist(StorageLevel.MEMORY_AND_DISK))


def _pieces(spec: DatasetSpec, group: EventGroup, number: int, events: DataFrame) -> DataFrame:
    """The events that there are as pieces of their users' lists.

    They are made where the files are read, in whose order they lie together: sorted and shuffled are pieces alone.
    """
    user, types = spec.schema_.user, group.types(spec.types, spec.schema_.user)
    names = [user, group.position_column, *group.columns]
    rows = events.select(*(F.col(c).cast(types[c]).alias(c) for c in names))
    made = struct_of({user: types[user], group.position_column: "bigint", **{c: spec.types[c] for c in group.columns}})
    pieces = PieceTask(user, group.position_column, group.columns, to_arrow_schema(made))
    return rows.mapInArrow(pieces, made).select(
        user, F.lit(number).alias(_KIND), F.col(group.position_column).alias(_PLACE), *group.columns
    )


def _new_type(spec: DatasetSpec, group: EventGroup) -> str:
    fields = [f"v{n}:{element_type(c, spec.types[c])}" for n, c in enumerate(group.columns)]
    return f"array<struct<{','.join(['position:bigint', *fields])}>>"


def refuse_grown(base: Cut, now: DatasetMetadata) -> None:
    """Refuse to publish a log that was laid into lists which have changed since.

    Args:
        base: The version whose lists it was laid into.
        now: The dataset's tables.

    Raises:
        GrownListsError: positions that the log's new events have may be taken.
    """
    if now.has_other_lists(base.snapshots):
        raise GrownListsError(
            f"another run added events to users' lists of {now.spec.name} first, each time that this one was laid into "
            "them",
            fix="Nothing was published. Run the job again.",
        )
