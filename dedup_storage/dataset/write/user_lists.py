"""Layout ``user``: a log's lists laid into the lists of its users, what is new staged, and the proof.

One shuffle of the requests with their lists, by user bucket, and beside them one row a user and group with the events
that the dataset holds of the day's users. Both are sorted by user and matched in a stream (``windows.stream``): a
task holds a batch of rows and one user's list, whatever the bucket holds. What is kept of it has no list any more.

    requests (R rows)  ┐
    events -> a list   ├─ union ─ shuffle by bucket ─ sort ─ match ─ kept ─┬─ requests
    of each user       ┘                                                   └─ new events
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.dataset.lists import with_lists
from dedup_storage.dataset.write.audit import staged_rows
from dedup_storage.errors import ConflictError, StorageError
from dedup_storage.event_groups import RUNS_TYPE, EventGroup, element_type
from dedup_storage.lake.engine.sessions import move_to
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import Run, Staged
from dedup_storage.layout import DatasetSpec
from dedup_storage.spark.rows import only_row
from dedup_storage.spark.types import ddl, fingerprint, struct_of
from dedup_storage.windows.stream import StreamGroup, UserStream
from dedup_storage.words import counted

__all__ = ["GrownListsError", "Laid", "lay", "refuse_grown", "require_same_lists", "staged_lists"]

_KIND, _PLACES, _BUCKET, _PROOF = "_dedup_kind", "_dedup_places", "_dedup_bucket", "_dedup_proof"
_NEW, _EVENT, _DIGEST = "_dedup_new_", "_dedup_event", "decimal(38,0)"
# What a task holds of the rows at once.
_BATCHES = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": "8192",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(64 * 1024**2),
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
    """

    handle: Handle
    frame: DataFrame

    @property
    def spec(self) -> DatasetSpec:
        """The dataset."""
        return self.handle.spec

    def requests(self) -> DataFrame:
        """Request rows as they are stored."""
        return self.frame.drop(_PROOF, *(_NEW + group.name for group in self.spec.events))

    def events(self, group: EventGroup) -> DataFrame:
        """New events of a group, as they are stored."""
        user, date = self.spec.schema_.user, self.spec.event_date_column
        epoch = F.trunc(F.col(date), "month") if date else F.lit(None).cast("date")
        rows = self.frame.select(user, epoch.alias(group.epoch_column), F.explode(_NEW + group.name).alias(_EVENT))
        events = rows.select(
            user,
            F.col(_EVENT)["position"].alias(group.position_column),
            group.epoch_column,
            *(F.col(_EVENT)[f"v{number}"].alias(c) for number, c in enumerate(group.columns)),
        )
        # They lie by bucket: sorted as they are stored, nothing is shuffled.
        order = [group.epoch_column, _BUCKET, user, group.position_column]
        return events.withColumn(_BUCKET, self.handle.bucket).sortWithinPartitions(*order).drop(_BUCKET)

    def release(self) -> None:
        """Let go of what is kept."""
        self.frame.unpersist()


def lay(handle: Handle, base: Cut, requests: DataFrame, users: DataFrame) -> Laid:
    """Lay request rows into the lists of their users.

    Args:
        handle: The dataset; ``requests`` belongs to a session of the run's own.
        base: The version whose events there are; version 0 has none.
        requests: Request rows with their lists, and the event date.
        users: The users of these rows, one column, each once.
    """
    spec, schema, session = handle.spec, handle.spec.schema_, requests.sparkSession
    for key, value in _BATCHES.items():
        session.conf.set(key, value)
    own = requests.columns
    rows = requests.select(
        *own,
        F.lit(len(spec.events)).alias(_KIND),
        F.lit(None).cast("array<bigint>").alias(_PLACES),
        _digest(spec, requests).alias(_PROOF),
    )
    for number, group in enumerate(spec.events):
        if group.table in base.snapshots:
            known = move_to(session, base.stored(group.table)).join(users, schema.user, "left_semi")
            rows = rows.unionByName(_stored(spec, group, number, known), allowMissingColumns=True)
    times = [schema.event_time] if schema.event_time else []
    rows = rows.withColumn(_BUCKET, handle.bucket).repartition(_BUCKET).drop(_BUCKET)
    rows = rows.sortWithinPartitions(*dict.fromkeys([schema.user, _KIND, *times, *schema.request]))
    types = {f.name: ddl(f.dataType) for f in requests.schema.fields}
    made = {g.runs_column: RUNS_TYPE for g in spec.events} | {_NEW + g.name: _new_type(spec, g) for g in spec.events}
    stored = struct_of({**types, _PROOF: _DIGEST, **made})
    groups = [StreamGroup(g.columns, g.newest_first, g.runs_column, _NEW + g.name) for g in spec.events]
    stream = _Stream(UserStream(schema.user, _KIND, _PLACES, groups), to_arrow_schema(stored))
    return Laid(handle, rows.mapInArrow(stream, stored).persist(StorageLevel.MEMORY_AND_DISK))


def _stored(spec: DatasetSpec, group: EventGroup, number: int, events: DataFrame) -> DataFrame:
    """One row a user with the events that there are; their order is the stream's to find."""
    user, place = spec.schema_.user, group.position_column
    event = F.struct(F.col(place).alias("place"), *(F.col(c).alias(f"v{n}") for n, c in enumerate(group.columns)))
    lists = events.groupBy(user).agg(F.collect_list(event).alias(_EVENT))
    return lists.select(
        user,
        F.lit(number).alias(_KIND),
        F.col(_EVENT)["place"].alias(_PLACES),
        *(F.col(_EVENT)[f"v{n}"].cast(spec.types[c]).alias(c) for n, c in enumerate(group.columns)),
    )


def _new_type(spec: DatasetSpec, group: EventGroup) -> str:
    fields = [f"v{n}:{element_type(c, spec.types[c])}" for n, c in enumerate(group.columns)]
    return f"array<struct<{','.join(['position:bigint', *fields])}>>"


@dataclass(frozen=True)
class _Stream:
    """A stream that begins anew in every task.

    Attributes:
        stream: Says which columns are which.
        schema: Of the rows that come out.
    """

    stream: UserStream
    schema: pa.Schema

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Spark's batches of a partition, laid."""
        for batch in replace(self.stream).lay(batches):
            arrays = [batch.column(f.name) for f in self.schema]
            cast = [a if a.type == f.type else a.cast(f.type) for a, f in zip(arrays, self.schema, strict=True)]
            yield pa.RecordBatch.from_arrays(cast, schema=self.schema)


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


def staged_lists(handle: Handle, base: Cut, run: Run, staged: Sequence[Staged], dates: Sequence[str]) -> DataFrame:
    """The staged request rows of a log with their lists, made of what the tables would hold.

    Args:
        handle: The dataset.
        base: The version that the run starts from.
        run: The attempt.
        staged: What it staged.
        dates: Event dates of the log (ISO).
    """
    spec, found, events = handle.spec, {s.table: s for s in staged}, {}
    for group in spec.events:
        rows = handle.tables.staged_rows(spec, found[group.table], run)
        events[group.name] = base.stored(group.table).unionByName(rows) if group.table in base.snapshots else rows
    return with_lists(spec, staged_rows(handle, found[spec.anchor.name], run, dates), events)


# -- the proof ------------------------------------------------------------------------------------------------------
def require_same_lists(laid: Laid, requests: DataFrame) -> None:
    """Refuse to publish request rows whose lists do not come back from what was staged.

    Matching has compared every list with its windows, value for value; this is the way through storage.

    Args:
        laid: What was laid.
        requests: The staged request rows of the log with their lists made of the staged events, in the log's types.

    Raises:
        StorageError: rows or lists differ.
    """
    # Texts of times, in lists of structs, are digested in the session's time zone.
    requests = move_to(laid.frame.sparkSession, requests)
    before = _summed(laid.frame, F.col(_PROOF))
    after = _summed(requests, _digest(laid.spec, requests))
    if before != after:
        raise StorageError(
            f"the lists that were staged in {laid.spec.name} are not those of the log",
            expected=f"{counted(before[0], 'request')}, digest {before[1]}",
            got=f"{counted(after[0], 'request')}, digest {after[1]}",
            fix="Nothing was published. Please report it.",
        )


def _digest(spec: DatasetSpec, rows: DataFrame) -> Column:
    """Digest of a request's key and lists."""
    names = [*spec.request_key, *(c for group in spec.events for c in group.columns)]
    return fingerprint([rows.schema[name] for name in names], strict=True).cast(_DIGEST)


def _summed(rows: DataFrame, digest: Column) -> tuple[int, str]:
    row = only_row(rows.agg(F.count(F.lit(1)).alias("n"), F.sum(digest).alias("sum")))
    return int(row["n"]), str(row["sum"])
