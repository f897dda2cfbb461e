"""Stages what lays users' lists anew: copies of their events at the lists' ends, and requests that refer to them.

What was there stays where it is: older versions, and runs at work on them, read it as before. Rows are proved by number
and digest against what was handed on; that the new runs lead to the same events was shown when they were made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from dedup_storage.dataset.backfill.parts import MOST_SEGMENTS, SegmentFiles, inside_segments, swap_rows
from dedup_storage.dataset.backfill.target import date_column, table_of
from dedup_storage.dataset.upkeep.fragments import BUCKET, Fragments, anew_column, moves_column
from dedup_storage.dataset.write.user_lists import row_digest, row_facts
from dedup_storage.errors import StorageError
from dedup_storage.event_groups import EventGroup
from dedup_storage.faults import reached
from dedup_storage.lake.branch import PART, RUN_ID, Branch
from dedup_storage.lake.engine.sessions import move_to
from dedup_storage.lake.groups import columns_of
from dedup_storage.lake.protocol import Run, Staged
from dedup_storage.lake.segments import Segment, encode_segments
from dedup_storage.layout import TableRole, TableSpec
from dedup_storage.spark.rows import only_row
from dedup_storage.words import counted

__all__ = ["Copies"]

_USER, _OLD, _NEW, _MOVE, _AT = (f"_dedup_{name}" for name in ("user", "old", "new", "move", "at"))
_KEY = "_dedup_key_"


@dataclass(frozen=True)
class Copies:
    """What is to be staged.

    Attributes:
        fragments: Of the version that it is made from.
        laid: Its ``laid``.
        buckets: Group -> buckets in which it is laid anew, at least one.
        events: Group -> how many events are copied.
    """

    fragments: Fragments
    laid: DataFrame
    buckets: Mapping[str, Collection[int]]
    events: Mapping[str, int]

    @property
    def groups(self) -> list[EventGroup]:
        """The groups that are laid anew."""
        return [group for group in self.fragments.spec.events if group.name in self.buckets]

    def tables(self) -> list[str]:
        """Tables that get copies: of events, and of features of them."""
        groups, spec = self.groups, self.fragments.spec
        return [name for name in self.fragments.cut.snapshots if spec.event_group(name) in groups]

    def segments(self) -> frozenset[Segment]:
        """Segments with requests that change."""
        spec = self.fragments.spec
        rows = self._changes().select(date_column(spec).alias("date"), F.col(BUCKET).alias("bucket")).distinct()
        # One row for each segment.
        return frozenset(Segment(row["date"], row["bucket"]) for row in rows.collect())

    def stage(self, run: Run, branch: Branch) -> list[Staged]:
        """Stage all of it.

        Args:
            run: The attempt; its segments are those of the requests.
            branch: The run's branch of the requests, which is begun anew.

        Raises:
            StorageError: what was staged is not what was to be.
        """
        self._swap(run, branch)
        reached("maintain:anew-requests")
        staged = []
        for name in self.tables():
            staged.append(self._copy(name, run))
            reached(f"maintain:anew-{name}")
        self._require_requests(branch)
        return staged

    def _in_bucket(self, group: EventGroup) -> Column:
        return F.col(BUCKET).isin([*self.buckets[group.name]])

    def _changes(self, part: Sequence[Segment] = ()) -> DataFrame:
        """Requests that change, with their new runs; of some segments, or of all."""
        runs = [F.when(self._in_bucket(g), F.col(anew_column(g))).alias(anew_column(g)) for g in self.groups]
        rows = self.laid.select(*self._key(), BUCKET, *runs)
        if part:
            rows = rows.filter(inside_segments(part, date_column(self.fragments.spec), F.col(BUCKET)))
        return rows.filter(reduce(or_, (F.col(anew_column(g)).isNotNull() for g in self.groups)))

    def _key(self) -> list[str]:
        spec = self.fragments.spec
        dates = [spec.event_date_column] if spec.event_date_column else []
        return list(dict.fromkeys([*spec.request_key, *dates]))

    # -- requests -----------------------------------------------------------------------------------------------

    def _swap(self, run: Run, branch: Branch) -> None:
        """Write the requests' segments anew, on a branch."""
        found, anchor = self.fragments, self.fragments.spec.anchor.name
        tables, meta = found.handle.tables, found.cut.meta
        target = table_of(meta, found.cut.version, anchor)
        branch.open(target.snapshot_id)
        segments = sorted((run.segments or {})[anchor])
        files = SegmentFiles(
            lambda: move_to(found.session, tables.files(meta, anchor, target.snapshot_id)), segments
        )  # fmt: skip
        for first in range(0, len(segments), MOST_SEGMENTS):
            part = segments[first : first + MOST_SEGMENTS]
            rows = found.stored(anchor).filter(F.expr(tables.inside(found.spec, part)))
            rows = self._changed(rows, part).select(*target.columns)
            facts = {PART: encode_segments({anchor: part}), RUN_ID: run.run_id, **run.facts}
            swap_rows(tables, found.spec, found.session, branch, run, target, rows, files.paths(part), facts)

    def _changed(self, rows: DataFrame, part: Sequence[Segment] = ()) -> DataFrame:
        """Rows of requests, of some segments or of all, with their new runs."""
        key = self._key()
        changes = self._changes(part).select(
            *(F.col(name).alias(_KEY + name) for name in key), *(anew_column(group) for group in self.groups)
        )
        same = [F.col(name).eqNullSafe(F.col(_KEY + name)) for name in key]
        joined = rows.join(changes, same, "left").drop(*(_KEY + name for name in key))
        runs = {g.runs_column: F.coalesce(anew_column(g), g.runs_column) for g in self.groups}
        return joined.withColumns(runs).drop(*(anew_column(group) for group in self.groups))

    def _require_requests(self, branch: Branch) -> None:
        """Refuse requests that are not those that there were, with the runs that were handed on.

        Raises:
            StorageError: they differ.
        """
        found, spec = self.fragments, self.fragments.spec
        cut, anchor = found.cut, spec.anchor.name
        columns = columns_of(cut.meta, cut.version, anchor)
        here = cut.meta.totals(anchor, cut.snapshots[anchor]).rows, branch.count()
        buckets = sorted({bucket for listed in self.buckets.values() for bucket in listed})
        inside = found.handle.tables.in_buckets(spec, buckets)
        expected, got = (
            only_row(rows.agg(*row_facts(spec, rows), F.sum(_others(self, rows)).alias("others")))
            for rows in (
                self._changed(found.stored(anchor).filter(inside)).select(*columns),
                move_to(found.session, branch.rows()).filter(inside).select(*columns),
            )
        )
        before = found.stored(anchor).filter(inside).select(*columns)
        kept = only_row(before.agg(F.sum(_others(self, before)).alias("others")))["others"]
        if expected != got or kept != got["others"] or here[0] != here[1]:
            raise StorageError(
                f"the rows of {spec.name}.{anchor} with lists laid anew are not those that were to be",
                expected=f"{counted(here[0], 'row')}, digest {expected['sum']}",
                got=f"{counted(here[1], 'row')}, digest {got['sum']}",
                fix="Nothing was published. Please report it.",
            )

    # -- events -------------------------------------------------------------------------------------------------

    def _copy(self, name: str, run: Run) -> Staged:
        """Stage copies of a table's events, or features of them."""
        found, meta = self.fragments, self.fragments.cut.meta
        tables, spec = found.handle.tables, found.spec
        group = next(g for g in self.groups if g == spec.event_group(name))
        columns = columns_of(meta, found.cut.version, name)
        rows = self._copied(group, name, columns)
        seen = Observation()
        role = TableRole.EVENTS if name == group.table else TableRole.FEATURES
        table = TableSpec(role=role, name=name, columns=columns, sort_columns=group.key(spec.schema_.user))
        staged = tables.stage(spec, table, rows.observe(seen, *row_facts(spec, rows)), run)
        stored = move_to(found.session, tables.staged_rows(spec, staged, run))
        stored = stored.select(*(F.col(f.name).cast(f.dataType).alias(f.name) for f in rows.schema.fields))
        got = only_row(stored.agg(*row_facts(spec, stored)))
        after = int(got["rows"]), got["sum"]
        if (int(seen.get.get("rows") or 0), seen.get.get("sum")) != after:
            # A stage that ran twice was counted twice: what is there decides.
            handed = only_row(rows.agg(*row_facts(spec, rows)))
            if (int(handed["rows"]), handed["sum"]) != after:
                raise _other_copies(f"{spec.name}.{name}", int(handed["rows"]), after[0])
        if after[0] != self.events[group.name]:
            raise _other_copies(f"{spec.name}.{name}", self.events[group.name], after[0])
        return staged

    def _copied(self, group: EventGroup, name: str, columns: Sequence[str]) -> DataFrame:
        """Rows of a table at their new positions, in the epochs in which they are."""
        found, user, place = self.fragments, self.fragments.spec.schema_.user, group.position_column
        laid = self.laid.filter(self._in_bucket(group))
        moves = laid.select(F.col(user).alias(_USER), F.explode(moves_column(group)).alias(_MOVE))
        at = F.explode(F.sequence(F.lit(0).cast("bigint"), F.col(_MOVE)["size"] - F.lit(1)))
        moves = moves.select(_USER, _MOVE, at.alias(_AT)).select(
            _USER, (F.col(_MOVE)["old"] + F.col(_AT)).alias(_OLD), (F.col(_MOVE)["new"] + F.col(_AT)).alias(_NEW)
        )
        inside = found.handle.tables.in_buckets(found.spec.partitioned(name), self.buckets[group.name])
        rows = found.stored(name).filter(inside).select(*columns)
        rows = rows.join(moves, (F.col(user) == F.col(_USER)) & (F.col(place) == F.col(_OLD)))
        return rows.withColumn(place, F.col(_NEW)).select(*columns)


def _others(copies: Copies, rows: DataFrame) -> Column:
    """Digest of a request without the runs of groups that are laid anew."""
    gone = [group.runs_column for group in copies.groups]
    return row_digest(copies.fragments.spec, rows.drop(*gone))


def _other_copies(table: str, expected: int, got: int) -> StorageError:
    return StorageError(
        f"the copies of events that were staged in {table} are not those that were to be",
        expected=f"{counted(expected, 'row')}, each event that a list names there once",
        got=counted(got, "row"),
        fix="Nothing was published. See what check says of the dataset; where it finds nothing, report it.",
    )
