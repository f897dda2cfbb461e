"""Layout ``user``: events that no request of a kept version refers to, such as those of a day that was replaced.

They are dropped where a segment is written anew; nothing else changes. Positions stay, so that lists have gaps, and the
last event of each user stays, whoever refers to it: it says where the list ends, so that no position is given twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import reduce
from itertools import pairwise

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.backfill.target import date_column
from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.dataset.positions import broken_lists, named_spans
from dedup_storage.errors import ConflictError, StorageError
from dedup_storage.event_groups import EventGroup
from dedup_storage.lake.engine.sessions import move_to
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.segments import MAINTAIN, REBUCKET, Segment, decode_segments
from dedup_storage.words import counted

__all__ = ["GrownRequestsError", "Referenced", "all_referenced", "telling_versions"]

_SPANS, _LAST, _COUNT = "_dedup_spans", "_dedup_last", "_dedup_count"
_SPANS_TYPE = "array<struct<first:bigint,end:bigint>>"


class GrownRequestsError(ConflictError):
    """Requests changed since it was looked which events they refer to; nothing was published."""


class Referenced:
    """The events that the requests of kept versions refer to.

    Args:
        handle: The dataset, in a session of the run's own.
        meta: Its tables; of them are the requests.
        versions: The kept versions.
        before: Its tables when the run began, whose newest version has the events that may go; since then nothing came
            but new files.
    """

    def __init__(
        self, handle: Handle, meta: DatasetMetadata, versions: Collection[int], before: DatasetMetadata
    ) -> None:
        self.handle, self.now = handle, Cut(handle, meta, meta.current)
        self.base = Cut(handle, before, before.current)
        self._telling = [Cut(handle, meta, version) for version in telling_versions(meta, versions)]
        self._spans: dict[str, DataFrame] = {}

    @classmethod
    @contextmanager
    def of(
        cls, handle: Handle, meta: DatasetMetadata, versions: Collection[int], before: DatasetMetadata
    ) -> Iterator[Referenced]:
        """What is referred to, for a while: what was found out is kept that long."""
        found = cls(handle, meta, versions, before)
        try:
            yield found
        finally:
            for spans in found._spans.values():
                spans.unpersist()

    def unreferenced(self, table: str) -> dict[Segment, int]:
        """Segments of a table with events that go -> how many."""
        group, spec = self._group(table), self.base.spec.partitioned(table)
        rows = self._marked(group, self.base.stored(table, hidden=True))
        rows = rows.filter(~self._named(group)).select(
            date_column(spec).alias("date"), self.handle.tables.bucket(spec).alias("bucket")
        )
        # One row for each segment.
        found = rows.groupBy("date", "bucket").agg(F.count(F.lit(1)).alias(_COUNT)).collect()
        return {Segment(row["date"], row["bucket"]): int(row[_COUNT]) for row in found}

    def kept(self, table: str, rows: DataFrame) -> DataFrame:
        """Rows of a table without the events that go."""
        group, columns = self._group(table), rows.columns
        return self._marked(group, rows).filter(self._named(group)).select(*columns)

    def require_whole(self, table: str, rows: DataFrame) -> None:
        """Refuse to publish a table of events that lacks one which a request of the newest version refers to.

        Args:
            table: Its name.
            rows: Its rows as they would be.

        Raises:
            StorageError: a list could not be made again.
        """
        spec, group = self.base.spec, self._group(table)
        if table != group.table:
            return
        requests = move_to(rows.sparkSession, self.now.stored(spec.anchor.name))
        if self.now.snapshots[table] != self.base.snapshots[table]:
            # Events that came meanwhile stay beside what was rewritten.
            key = group.key(spec.schema_.user)
            came = self.now.stored(table).select(*key).join(self.base.stored(table).select(*key), [*key], "left_anti")
            rows = rows.select(*key).unionByName(move_to(rows.sparkSession, came))
        users, broken = broken_lists(spec, group, rows, requests)
        if users or broken:
            raise StorageError(
                f"without the events that would be dropped from {spec.name}.{table} lists could not be made again",
                expected="every event that a request refers to, once",
                got=f"{counted(users, 'broken user')}, {counted(broken, 'broken request')}",
                fix="Nothing was published. See what check says of the dataset; where it finds nothing, report it.",
            )

    def refuse_grown(self, now: DatasetMetadata) -> None:
        """Refuse to publish where requests or events have changed: a request may refer to an event that would go.

        Raises:
            GrownRequestsError: they have.
        """
        anchor, before = self.now.spec.anchor.name, self.now.snapshots
        if now.has_other_lists(before) or now.snapshots(now.current)[anchor] != before[anchor]:
            raise GrownRequestsError(
                f"another run changed requests of {now.spec.name} while it was looked for events that none refers to",
                fix="Nothing was published. Run the job again.",
            )

    def _group(self, table: str) -> EventGroup:
        group = self.base.spec.event_group(table)
        if group is None:
            raise ValueError(f"{table} holds no events")
        return group

    def _marked(self, group: EventGroup, rows: DataFrame) -> DataFrame:
        """Rows with the spans of positions that are kept of their users."""
        spans = move_to(rows.sparkSession, self._kept_spans(group))
        return rows.join(spans, self.base.spec.schema_.user, "left")

    def _named(self, group: EventGroup) -> Column:
        """Whether a marked row stays; what has no position or no user is left to ``check``."""
        place = F.col(group.position_column)
        inside = F.exists(_SPANS, lambda span: (span["first"] <= place) & (place < span["end"]))
        return F.coalesce(inside, F.lit(True))

    def _kept_spans(self, group: EventGroup) -> DataFrame:
        """One row a user: the positions that stay, as spans."""
        if group.name not in self._spans:
            user = self.base.spec.schema_.user
            parts = (cut.stored(cut.spec.anchor.name).select(user, group.runs_column) for cut in self._telling)
            named = named_spans(reduce(DataFrame.unionByName, parts), user, group.runs_column, _SPANS)
            ends = self.now.stored(group.table).groupBy(user).agg(F.max(group.position_column).alias(_LAST))
            last = F.array(F.struct(F.col(_LAST).alias("first"), (F.col(_LAST) + F.lit(1)).alias("end")))
            kept = F.concat(F.coalesce(F.col(_SPANS), F.array().cast(_SPANS_TYPE)), last.cast(_SPANS_TYPE))
            self._spans[group.name] = ends.join(named, user, "left").select(user, kept.alias(_SPANS)).persist()
        return self._spans[group.name]


def all_referenced(meta: DatasetMetadata) -> bool:
    """Whether requests refer to every event, as far as metadata knows: no version ever took a request away."""
    numbers = [number for number in range(1, meta.current + 1) if number not in meta.abandoned]
    return all(_keeps_requests(meta, number) for number in numbers[1:])


def telling_versions(meta: DatasetMetadata, versions: Collection[int]) -> list[int]:
    """Those of some versions, and of the newest, whose requests must be read to know what all of them refer to.

    A version is left out where all that came between it and the next one only added requests, or left them alone: then
    the next one has all of its requests.
    """
    numbers = sorted({*versions, meta.current})
    found = []
    for number, later in pairwise(numbers):
        between = (version for version in range(number + 1, later + 1) if version not in meta.abandoned)
        if not all(_keeps_requests(meta, version) for version in between):
            found.append(number)
    return [*found, numbers[-1]]


def _keeps_requests(meta: DatasetMetadata, version: int) -> bool:
    """Whether a version says of itself that it took no request away from the one before."""
    facts, anchor = meta.claim(version), meta.spec.anchor.name
    if facts.get("mode") in (MAINTAIN, REBUCKET, "append"):
        return True
    named = facts["tables"].split(",") if "tables" in facts else None
    if "segments" in facts:
        named = list(decode_segments(facts["segments"]))
    return named is not None and anchor not in named
