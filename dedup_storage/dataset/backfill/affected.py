"""Which rows a backfill recomputes, and their new values, as frames that are not executed here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from dedup_storage.dataset.backfill.request import Affected, Change
from dedup_storage.dataset.backfill.target import Target, date_column, table_of
from dedup_storage.dataset.backfill.values import NewValues
from dedup_storage.dataset.handle import Cut
from dedup_storage.dataset.lists import with_lists
from dedup_storage.errors import SchemaError, UnknownColumnError, UsageError, known_names
from dedup_storage.lake.engine.plans import is_deterministic
from dedup_storage.lake.engine.sessions import move_to
from dedup_storage.lake.groups import FeatureGroup
from dedup_storage.layout import Layout
from dedup_storage.sources.named import exact_keys, typed_users

__all__ = ["FILE", "HIT", "MOST_COPIED", "NEW", "AffectedRows"]

FILE = "_file"
NEW = "_backfill_"
HIT = "_backfill_hit"
# Rows of keys and narrow values that are copied to every executor, some tens of MB, rather than the table's be moved.
MOST_COPIED = 300_000


class AffectedRows:
    """The rows of one table of one version that a backfill recomputes.

    Args:
        cut: The version to start from; frames belong to the session of its handle.
        target: The table.
        change: What to recompute.
        affected: For whom.
    """

    def __init__(self, cut: Cut, target: Target, change: Change, affected: Affected) -> None:
        self.cut, self.handle = cut, cut.handle
        self.spec, self.tables, self.session = cut.spec, cut.handle.tables, cut.handle.spark
        self.target, self.change, self.affected = target, change, affected
        if {*self._lists(target.table)} & {*change.names}:
            cut.spec.require_stored_lists("a backfill of history lists")
        self.reads: tuple[str, ...] = ()
        self._listed: DataFrame | None = None
        self._stored = self.table(target.table).schema
        self._new = NewValues(target.table, self._stored, self.spec.types)
        self.replacement = None if change.rows is None else self._checked_rows(change.rows)
        self._users = self._user_frame()

    def table(self, name: str) -> DataFrame:
        """All rows of a table of the version as they are stored, with the columns by which segments are found."""
        return move_to(self.session, self.cut.stored(name, hidden=True))

    def _lists(self, table: str) -> list[str]:
        """Columns of a table whose lists are made of users' events."""
        return [c for g in self.spec.events for c in g.columns] if table == self.spec.anchor.name else []

    def _logged(self, requests: DataFrame) -> DataFrame:
        """Request rows of the affected users with the lists that were logged."""
        events = {g.name: self._of_users(self.table(g.table)) for g in self.spec.events}
        return with_lists(self.spec, requests, events)

    def _of_users(self, rows: DataFrame) -> DataFrame:
        if self._users is None:
            return rows
        users = F.broadcast(self._users) if self._few_users else self._users
        return rows.join(users, self.spec.schema_.user, "left_semi")

    def changed_groups(self) -> list[FeatureGroup]:
        """Feature groups whose columns lie in the table and are recomputed."""
        names = set(self.change.names)
        return [g for g in self.cut.groups.values() if g.home == self.target.table and names & set(g.names)]

    def rows(self, columns: Iterable[str]) -> DataFrame:
        """The affected rows of the table: keys, place, the columns named, and ``_file``."""
        wanted = dict.fromkeys((*self.target.keys, *self._place(), *columns))
        frame = self.table(self.target.table)
        # All buckets of the users: rows in one left out would not be found.
        if self._users is not None and len(self._buckets) < self.spec.buckets:
            frame = frame.filter(self.tables.in_buckets(self.spec, self._buckets))
        low, high = self.affected.first_date, self.affected.last_date
        date = self.spec.event_date_column
        if low or high:
            if date is None:
                raise UsageError(
                    f"the dataset {self.spec.name} has no event dates", fix="Leave out the first and last date."
                )
            if low:
                frame = frame.filter(F.col(date) >= F.lit(low).cast("date"))
            if high:
                frame = frame.filter(F.col(date) <= F.lit(high).cast("date"))
        where = self.affected.where
        # Names are the same in SQL whatever their case; one too many costs a join, one too few another list.
        told = (where or "").lower()
        listed = any(c in wanted or c.lower() in told for c in self._lists(self.target.table))
        if where and not listed:
            frame = frame.filter(F.expr(where))
        frame = frame.select(*("*",) if listed else wanted, self.tables.file(self.spec).alias(FILE))
        frame = self._of_users(frame)
        if self.replacement is not None:
            keys = self.replacement.select(*self.target.keys)
            frame = frame.join(keys, list(self.target.keys), "left_semi")
        if listed:
            frame = self._logged(frame)
            frame = (frame.filter(F.expr(where)) if where else frame).select(*wanted, FILE)
        return frame

    @cached_property
    def touched(self) -> DataFrame:
        """Files with affected rows: ``date`` and ``bucket`` of the segment, ``_file``, and the rows, ``n``.

        The plan and the parts ask for them; they are looked for once, and kept until ``release``.
        """
        place = (date_column(self.spec).alias("date"), self.handle.bucket.alias("bucket"), FILE)
        found = self.rows(()).select(*place).groupBy("date", "bucket", FILE).agg(F.count(F.lit(1)).alias("n"))
        return found.persist()

    def release(self) -> None:
        """Free what is kept."""
        if "touched" in vars(self):
            self.touched.unpersist()
        if self._users is not None and "_users_in" in vars(self):
            self._users.unpersist()

    @cached_property
    def _users_in(self) -> dict[int, int]:
        """Bucket -> affected users in it; kept with the users, whom a run asks for with each look at its rows."""
        return {} if self._users is None else self._by_bucket(self._users.persist())

    def _by_bucket(self, users: DataFrame) -> dict[int, int]:
        """Bucket -> users in it: one row for each bucket."""
        counted = users.groupBy(self.handle.bucket.alias("b")).count().collect()
        return {row["b"]: row["count"] for row in counted if row["b"] is not None}

    @property
    def _buckets(self) -> list[int]:
        """Buckets of the affected users."""
        return sorted(self._users_in)

    @property
    def _few_users(self) -> bool:
        """Whether rows are found by a copy of the users, so that no row of a table moves."""
        return sum(self._users_in.values()) <= MOST_COPIED

    def _dates(self) -> tuple[str, ...]:
        date = self.spec.event_date_column
        return (date,) if date and date in self.target.columns else ()

    def _place(self) -> tuple[str, ...]:
        """Columns of the table that say in which segment a row lies."""
        return (*self._dates(), *self.tables.hidden(self.spec))

    # -- new values ---------------------------------------------------------------------------------------------

    def values(self) -> DataFrame:
        """Key columns, place, and ``_backfill_<column>`` in the table's types, of every affected row.

        A value that its column cannot hold is refused when the frame is run.

        Raises:
            UnknownColumnError: an expression or the function's result names a column that is not there.
            InputError: the function's result has keys that are none.
        """
        kept = [*self.target.keys, *self._place()]
        if self.replacement is not None:
            base = self.rows(())
            frame = base.join(self.replacement, list(self.target.keys)).drop(FILE)
            return frame.select(*kept, *(self._typed(frame, c, c) for c in self.change.names))
        if self.change.function is not None:
            inputs = self.change.inputs or self._readable()
            hidden = self.tables.hidden(self.spec)
            result = self.change.function(self._wide(inputs).drop(*hidden))
            if not isinstance(result, DataFrame):
                raise UsageError("the function gave no DataFrame", got=type(result).__name__)
            for name in (*self.target.keys, *self.change.names):
                if name not in result.columns:
                    raise UnknownColumnError(
                        f"the function's result lacks the column {name}", expected=known_names(name, result.columns)
                    )
            # Casts of its values, and its keys, must not depend on a session that the function brought along.
            result = exact_keys(move_to(self.session, result), self._kinds(), "function's result")
            if not self.affected.everything or any(date not in result.columns for date in self._dates()):
                # What it gives of other rows than those that it got changes nothing.
                own = self.rows(()).select(*self.target.keys, *self._dates())
                result = result.drop(*self._dates()).join(own, list(self.target.keys))
            result = result.withColumns({c: F.expr(sql) for c, sql in hidden.items()})
            return result.select(*kept, *(self._typed(result, c, c) for c in self.change.names))
        frame = self._expressed()
        return frame.select(*kept, *(self._typed(frame, NEW + c, c) for c in self.change.names))

    def _expressed(self) -> DataFrame:
        """Affected rows with the values of the expressions."""
        frame = self._wide(self._named(self.change.expressions.values()))
        for name, expression in self.change.expressions.items():
            frame = frame.withColumn(NEW + name, F.expr(expression))
        return frame

    def refuse_unstable(self) -> None:
        """Refuse a choice of rows that another look would make otherwise; a run looks more than once.

        Raises:
            UsageError: the condition, or the frame of users, is not deterministic.
        """
        rows = self.table(self.target.table)
        chosen = {"condition": None if self.affected.where is None else rows.filter(F.expr(self.affected.where))}
        for what, frame in (chosen | {"users": self._users}).items():
            if frame is not None and not is_deterministic(frame):
                raise UsageError(
                    f"the {what} of the backfill would choose other rows each time",
                    expected="a choice that follows from the rows",
                    got="rand(), uuid() or the like",
                    fix="Store the choice first, or take a named sample.",
                )

    def refuse_lost(self) -> None:
        """Refuse replacement rows and expressions whose values their columns cannot hold.

        A function is not called for this: its values are looked at when they are written.

        Raises:
            InputError: tells how many values of which column, and none of them.
        """
        if self.replacement is not None:
            self._new.refuse_lost(self.replacement, {c: c for c in self.change.names})
        elif self.change.function is None:
            self._new.refuse_lost(self._expressed(), {c: NEW + c for c in self.change.names})

    def _typed(self, frame: DataFrame, source: str, column: str) -> Column:
        return self._new.typed(frame, source, column).alias(NEW + column)

    def _named(self, expressions: Iterable[str]) -> list[str]:
        """Columns of the dataset that occur as words in expressions; a few too many cost little."""
        words = set(re.findall(r"\w+", " ".join(expressions)))
        own = [c for c in self._readable() if c in words]
        return own + [c for c in self._others() if c in words and c not in own]

    def _readable(self) -> list[str]:
        """The target's columns without those of the toolkit that stand for lists."""
        return [c for c in self.target.columns if c not in self.spec.runs_columns]

    def _others(self) -> dict[str, str]:
        """Columns of other tables that a row of the target may use -> their table."""
        if self.spec.layout is Layout.FLAT and len(self.target.keys) < len(self.spec.impression_key):
            return {}
        owners: dict[str, str] = {}
        runs = self.spec.runs_columns
        meta, moved = self.cut.meta, {g.table for g in self.cut.groups.values() if g.moved}
        for name in self.cut.snapshots:
            if name == self.target.table or name in moved or meta.role(name) in ("quarantine", "labels", "events"):
                continue
            other = table_of(meta, self.cut.version, name)
            if set(other.keys) <= set(self.target.keys):
                new = (c for c in other.columns if c not in self.target.columns and c not in owners and c not in runs)
                owners |= dict.fromkeys(new, name)
        return owners

    def _wide(self, columns: Iterable[str]) -> DataFrame:
        """Affected rows with columns of the target and of the tables whose keys it has."""
        names, others = list(columns), self._others()
        own = self._readable()
        for name in names:
            if name not in own and name not in others:
                raise UnknownColumnError(
                    f"no table of the dataset {self.spec.name} has the column {name} at this grain",
                    expected=known_names(name, (*own, *others)),
                )
        frame = self.rows([n for n in names if n in self.target.columns]).drop(FILE)
        used = dict.fromkeys(others[n] for n in names if n not in self.target.columns)
        self.reads = tuple(used)
        for table in used:
            other = table_of(self.cut.meta, self.cut.version, table)
            on = [*other.keys, *(c for c in self._place() if c in (*other.columns, *self.tables.hidden(self.spec)))]
            brought = [n for n in names if others.get(n) == table and n not in self.target.columns]
            rows, listed = self.table(table), bool({*brought} & {*self._lists(table)})
            if listed or self._few_users:
                rows = self._of_users(rows)
            rows = self._logged(rows) if listed else rows
            frame = frame.join(rows.select(*on, *brought), on, "left")
        return frame

    # -- who ----------------------------------------------------------------------------------------------------

    def _user_frame(self) -> DataFrame | None:
        """Distinct affected users; ``None`` for all of them."""
        user, users = self.spec.schema_.user, self.affected.users
        frames = []
        kind = self._stored[user].dataType
        if users is not None:
            given = move_to(self.session, users) if isinstance(users, DataFrame) else users
            self._listed = typed_users(self.session, given, user, kind)
            frames.append(self._listed)
        if self.affected.changed_since is not None:
            frames.append(self._changed(self.affected.changed_since))
        if not frames:
            return None
        frame = frames[0] if self._listed is frames[0] else frames[0].distinct()
        for other in frames[1:]:
            frame = frame.join(other.distinct(), user, "left_semi")
        return frame

    def asked(self) -> dict[str, int]:
        """What was asked for, and how much of it the version does not hold: fields of ``Asked``."""
        found: dict[str, int] = {}
        if self._listed is not None:
            user, listed = self.spec.schema_.user, self._listed
            counts = self._users_in if listed is self._users else self._by_bucket(listed)
            anchor = self.table(self.spec.anchor.name)
            there = anchor.filter(self.tables.in_buckets(self.spec, sorted(counts))).select(user)
            found["users"] = sum(counts.values())
            if found["users"] <= MOST_COPIED:
                known = there.join(F.broadcast(listed), user, "left_semi").distinct().count()
                found["users_not_found"] = found["users"] - known
            else:
                found["users_not_found"] = listed.join(there, user, "left_anti").count()
        if self.replacement is not None:
            keys = list(self.target.keys)
            there = self.table(self.target.table).select(*keys)
            found["replacement_rows"] = self.replacement.count()
            found["replacement_rows_not_found"] = self.replacement.join(there, keys, "left_anti").count()
        return found

    def _changed(self, since: int) -> DataFrame:
        """Users with rows in files that the dataset's other tables got after a version."""
        meta, user, changed = self.cut.meta, self.spec.schema_.user, None
        meta.resolve(since)
        before = meta.snapshots(since)
        for name, snapshot_id in self.cut.snapshots.items():
            # A feature group's own files say nothing about what it was computed from.
            own = name == self.target.table and meta.role(name) == "features"
            if own or meta.role(name) in ("quarantine", "labels", "events") or before.get(name) == snapshot_id:
                continue
            files = self.files(name, snapshot_id)
            if name in before:
                files = files.join(self.files(name, before[name]), "file_path", "left_anti")
            rows = self.table(name).select(user, self.tables.file(self.spec).alias("file_path"))
            users = rows.join(F.broadcast(files), "file_path", "left_semi").select(user)
            changed = users if changed is None else changed.unionByName(users)
        if changed is None:
            return self.table(self.target.table).select(user).limit(0)
        return changed

    def files(self, table: str, snapshot_id: int) -> DataFrame:
        """Places of a snapshot's data files."""
        files = move_to(self.session, self.tables.files(self.cut.meta, table, snapshot_id))
        return files.filter("content = 0").select("file_path")

    def _kinds(self) -> dict[str, DataType]:
        """Key column -> stored type."""
        return {k: self._stored[k].dataType for k in self.target.keys}

    def _checked_rows(self, replacement: DataFrame) -> DataFrame:
        rows = move_to(self.session, replacement)
        for name in (*self.target.keys, *self.change.names):
            if name not in rows.columns:
                raise SchemaError(
                    f"the replacement rows lack the column {name}",
                    expected=", ".join((*self.target.keys, *self.change.names)),
                    got=known_names(name, rows.columns),
                )
        return exact_keys(rows, self._kinds(), "replacement rows").select(*self.target.keys, *self.change.names)
