"""Layout ``user``: whose lists are many runs, and what would be left of these in another order of the users' events.

A list has one run at least, so counts of lists and runs rule out nearly all users and buckets; only of the others are
runs shuffled, user by user, and looked at (``windows.anew``). No event is decoded: runs name events by position.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from dedup_storage.dataset.handle import Cut, Handle
from dedup_storage.dataset.write.user_lists import STREAM_SETTINGS
from dedup_storage.event_groups import RUNS_TYPE, EventGroup
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.spark.types import ddl, struct_of
from dedup_storage.windows.anew import AnewGroup, AnewStream
from dedup_storage.windows.tasks import LayTask

__all__ = ["BUCKET", "Fragments", "Gained", "GroupRuns", "anew_column", "moves_column"]

BUCKET = "_dedup_bucket"
_LISTS, _RUNS, _END, _ANEW, _MOVES = (f"_dedup_{name}_" for name in ("lists", "runs", "end", "anew", "moves"))
_MOVES_TYPE = "array<struct<old:bigint,new:bigint,size:bigint>>"
# Of more users so many are looked at first: where their lists gain too little, the others' are not tried.
_DRAWN = 2_000


def anew_column(group: EventGroup) -> str:
    """Of ``Fragments.laid``: where a request's lists stand among the copies, null where nothing changes."""
    return _ANEW + group.name


def moves_column(group: EventGroup) -> str:
    """Of ``Fragments.laid``: what is copied of a user, in one row of the user."""
    return _MOVES + group.name


@dataclass(frozen=True)
class GroupRuns:
    """Runs of one group.

    Attributes:
        lists: Lists of requests that have runs.
        runs: Bucket -> their runs.
        promising: Buckets where enough of them may go.
        users: In these, users of whom enough may go.
    """

    lists: int
    runs: Mapping[int, int]
    promising: frozenset[int]
    users: int


@dataclass(frozen=True)
class Gained:
    """What laying anew brings in one bucket, or in several.

    Attributes:
        users, requests: That are laid anew.
        before, after: Runs of these requests.
        events: Copied.
    """

    users: int = 0
    requests: int = 0
    before: int = 0
    after: int = 0
    events: int = 0

    @property
    def gone(self) -> int:
        """Runs that are no more."""
        return self.before - self.after

    def __add__(self, other: Gained) -> Gained:
        return Gained(
            self.users + other.users, self.requests + other.requests, self.before + other.before,
            self.after + other.after, self.events + other.events,
        )  # fmt: skip


class Fragments:
    """Runs of one version's requests.

    Args:
        handle: The dataset.
        cut: The version.
        share: So many runs must go: of a user, and of a bucket.
    """

    def __init__(self, handle: Handle, cut: Cut, share: float) -> None:
        self.handle, self.cut, self.spec, self.share = handle, cut, cut.spec, share
        self.session = run_session(handle.spark)
        for key, value in STREAM_SETTINGS.items():
            self.session.conf.set(key, value)
        self._kept = ExitStack()

    @classmethod
    @contextmanager
    def of(cls, handle: Handle, cut: Cut, share: float) -> Iterator[Fragments]:
        """They, for a while: what was found out is kept that long."""
        found = cls(handle, cut, share)
        with found._kept:
            yield found

    def stored(self, table: str) -> DataFrame:
        """A table's rows as they are stored, with the columns by which segments are found."""
        return move_to(self.session, self.cut.stored(table, hidden=True))

    def counted(self) -> dict[str, GroupRuns]:
        """What counts alone tell, by group."""
        facts = []
        for group in self.spec.events:
            listed, all_runs, few = F.col(_LISTS + group.name), F.col(_RUNS + group.name), self._is_fragmented(group)
            facts += [
                F.sum(listed).alias(_LISTS + group.name),
                F.sum(all_runs).alias(_RUNS + group.name),
                F.sum(F.when(few, all_runs - listed).otherwise(0)).alias(_MOVES + group.name),
                F.count_if(few).alias(_END + group.name),
            ]
        # One row for each bucket.
        rows = self._by_user.groupBy(BUCKET).agg(*facts).collect()
        found = {}
        for group in self.spec.events:
            runs = {row[BUCKET]: int(row[_RUNS + group.name]) for row in rows}
            going = {row[BUCKET]: int(row[_MOVES + group.name]) for row in rows}
            promising = frozenset(b for b, n in going.items() if n and n >= self.share * runs[b])
            users = sum(int(row[_END + group.name]) for row in rows if row[BUCKET] in promising)
            lists = sum(int(row[_LISTS + group.name]) for row in rows)
            found[group.name] = GroupRuns(lists, runs, promising, users)
        return found

    def promises(self, counted: Mapping[str, GroupRuns]) -> bool:
        """Whether lists of some users gain half of what must be gained: where there are many, of a part of them."""
        users = max(found.users for found in counted.values())
        part = users // _DRAWN
        if part <= 1:
            return True
        gained = self.gained(self._laid(counted, part), counted)
        return any(
            part * sum(gain.gone for gain in gained[name].values())
            >= self.share / 2 * sum(found.runs[b] for b in found.promising)
            for name, found in counted.items()
            if found.promising
        )

    def laid(self, counted: Mapping[str, GroupRuns]) -> DataFrame:
        """Requests of users of whom enough may go: their key, date and bucket; of each group ``anew_column`` and
        ``moves_column``. Kept."""
        laid = self._laid(counted).persist(StorageLevel.MEMORY_AND_DISK)
        self._kept.callback(laid.unpersist)
        return laid

    def gained(self, laid: DataFrame, counted: Mapping[str, GroupRuns]) -> dict[str, dict[int, Gained]]:
        """What laying anew brings: group -> bucket -> gain."""
        facts = []
        for group in self.spec.events:
            anew, moves = F.col(anew_column(group)), F.col(moves_column(group))
            sizes = F.aggregate(moves, F.lit(0).cast("bigint"), lambda total, move: total + move["size"])
            there = anew.isNotNull()
            facts += [
                F.count_if(moves.isNotNull()).alias(f"users {group.name}"),
                F.count_if(there).alias(f"requests {group.name}"),
                F.coalesce(F.sum(F.when(there, F.col(_LISTS + group.name))), F.lit(0)).alias(f"before {group.name}"),
                F.coalesce(F.sum(F.when(there, F.size(anew))), F.lit(0)).alias(f"after {group.name}"),
                F.coalesce(F.sum(sizes), F.lit(0)).alias(f"events {group.name}"),
            ]
        rows = laid.groupBy(BUCKET).agg(*facts).collect()
        names = ("users", "requests", "before", "after", "events")
        return {
            name: {row[BUCKET]: Gained(**{n: int(row[f"{n} {name}"]) for n in names}) for row in rows}
            for name in counted
        }

    @cached_property
    def _by_user(self) -> DataFrame:
        """One row a user: its bucket, and of each group how many lists have runs, and how many."""
        user, columns, facts = self.spec.schema_.user, [], []
        for group in self.spec.events:
            columns.append(_size(group).alias(_RUNS + group.name))
            facts.append(F.count_if(F.col(_RUNS + group.name) > 0).alias(_LISTS + group.name))
            facts.append(F.sum(_RUNS + group.name).alias(_RUNS + group.name))
        rows = self.stored(self.spec.anchor.name).select(user, self.handle.bucket.alias(BUCKET), *columns)
        found = rows.groupBy(user, BUCKET).agg(*facts).persist(StorageLevel.MEMORY_AND_DISK)
        self._kept.callback(found.unpersist)
        return found

    def _is_fragmented(self, group: EventGroup) -> Column:
        """Whether enough of a user's runs would go if one were left of each list."""
        lists, runs = F.col(_LISTS + group.name), F.col(_RUNS + group.name)
        return (runs > lists) & (runs - lists >= self.share * runs)

    def _laid(self, counted: Mapping[str, GroupRuns], part: int = 1) -> DataFrame:
        spec, schema = self.spec, self.spec.schema_
        groups = [group for group in spec.events if group.name in counted]
        buckets = frozenset[int]().union(*(found.promising for found in counted.values()))
        flags = {
            group.name: self._is_fragmented(group) & F.col(BUCKET).isin([*counted[group.name].promising])
            for group in groups
        }
        users = self._by_user.filter(reduce(or_, flags.values()))
        users = users.filter(F.pmod(F.xxhash64(schema.user), F.lit(part)) == 0) if part > 1 else users
        users = users.select(schema.user, *(flag.alias(_END + name) for name, flag in flags.items()))
        requests = self._of(spec.anchor.name, buckets).join(users, schema.user)
        times = [schema.event_time] if schema.event_time else []
        dates = [spec.event_date_column] if spec.event_date_column else []
        own = list(dict.fromkeys([schema.user, *schema.request, *spec.request_key, *times, *dates]))
        rows = requests.select(
            *own,
            self.handle.bucket.alias(BUCKET),
            *(F.when(F.col(_END + g.name), _size(g)).alias(_LISTS + g.name) for g in groups),
            *(F.when(F.col(_END + g.name), F.col(g.runs_column)).alias(_RUNS + g.name) for g in groups),
        )
        for group in groups:
            rows = rows.join(self._ends(group, buckets, users), schema.user, "left")
        rows = rows.repartition(BUCKET).sortWithinPartitions(*dict.fromkeys([schema.user, *times, *schema.request]))
        types = {f.name: ddl(f.dataType) for f in rows.schema.fields if f.name not in _read(groups)}
        made = {anew_column(g): RUNS_TYPE for g in groups} | {moves_column(g): _MOVES_TYPE for g in groups}
        stored = struct_of({**types, **made})
        stream = AnewStream(
            schema.user,
            [AnewGroup(_RUNS + g.name, _END + g.name, anew_column(g), moves_column(g)) for g in groups],
            self.share,
        )
        laid = rows.mapInArrow(LayTask(stream, to_arrow_schema(stored)), stored)
        for group in spec.events:
            if group not in groups:
                nothing = {_LISTS + group.name: "int", anew_column(group): RUNS_TYPE, moves_column(group): _MOVES_TYPE}
                laid = laid.withColumns({name: F.lit(None).cast(kind) for name, kind in nothing.items()})
        return laid

    def _of(self, table: str, buckets: Collection[int]) -> DataFrame:
        """Rows of a table in some buckets; no other bucket's files are opened."""
        inside = self.handle.tables.in_buckets(self.spec.partitioned(table), buckets)
        return self.stored(table).filter(inside)

    def _ends(self, group: EventGroup, buckets: Collection[int], users: DataFrame) -> DataFrame:
        """The position that the next new event of each user takes."""
        user, place = self.spec.schema_.user, group.position_column
        rows = self._of(group.table, buckets).select(user, place).join(users.select(user), user, "left_semi")
        return rows.groupBy(user).agg((F.max(place) + F.lit(1)).alias(_END + group.name))


def _read(groups: Collection[EventGroup]) -> set[str]:
    """Columns that the stream reads and does not hand on."""
    return {prefix + group.name for group in groups for prefix in (_RUNS, _END)}


def _size(group: EventGroup) -> Column:
    runs = F.col(group.runs_column)
    return F.coalesce(F.when(runs.isNotNull(), F.size(runs)), F.lit(0))
