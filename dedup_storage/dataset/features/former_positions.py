"""Features of events that come as a frame by position: whether its positions are those of before lists were laid anew.

``maintain`` lays lists anew of copies of their events, behind all others. A frame that was made by the positions of an
older version has rows of the former events alone, which no list is made of any more. That shows without knowing which
version it was: of a user it has rows before the first event that the user's lists name, and none from there on, though
there is an event of the same values, or its own events are gone. What is computed of the events as they are now has
rows of both, since a copy has the values of its event.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Cut
from dedup_storage.errors import UsageError
from dedup_storage.event_groups import EventGroup
from dedup_storage.lake.segments import LAY_ANEW
from dedup_storage.sources.named import exact_keys
from dedup_storage.spark.rows import only_row
from dedup_storage.words import counted

__all__ = ["refuse_former_positions"]

_FIRST, _LAST, _VALUES, _COPIES = (f"_dedup_{name}" for name in ("first", "last", "values", "copies"))


def refuse_former_positions(cut: Cut, events: EventGroup, frame: DataFrame, feature: str) -> None:
    """Refuse a frame with positions of before lists were laid anew; where none ever were, nothing is read.

    Args:
        cut: The version that the feature is added to.
        events: The sequence group.
        frame: Rows with the user, the position and the feature's columns.
        feature: Name of the feature group.

    Raises:
        UsageError: of some users it has none of the events that their lists are made of now.
    """
    meta = cut.meta
    laid = next((v for v in meta.lineage(cut.version) if meta.claim(v).get("mode") == LAY_ANEW), None)
    if laid is None:
        return
    users = int(only_row(_users(cut, events, frame, feature).agg(F.count(F.lit(1)).alias("n")))["n"])
    if users:
        raise UsageError(
            f"the frame of the feature group {feature} has positions of before version {laid}, which laid lists of "
            f"{cut.spec.name} anew: of {counted(users, 'user')} it has no event that their lists are made of now",
            expected=f"{events.position_column} as {events.table} has it in version {cut.version}, where copies of "
            "these events stand at other positions, with the same values",
            fix=f"Nothing was published. Read {events.table} as it is now, and compute the frame of it anew.",
        )


def _users(cut: Cut, events: EventGroup, frame: DataFrame, feature: str) -> DataFrame:
    """Users of whom the frame has rows of former events alone."""
    user, place = events.key(cut.spec.schema_.user)
    stored = cut.stored(events.table).select(user, place, _digest(cut, events).alias(_VALUES))
    kinds = {f.name: f.dataType for f in stored.schema.fields if f.name in (user, place)}
    rows = exact_keys(frame.select(user, place), kinds, f"rows of the feature group {feature}")
    named = F.filter(F.col(events.runs_column), lambda run: run["length"] > 0)
    first = F.min(F.array_min(F.transform(named, lambda run: run["start"])))
    lists = cut.stored(cut.spec.anchor.name).groupBy(user).agg(first.alias(_FIRST))
    ends = rows.groupBy(user).agg(F.max(place).alias(_LAST)).join(lists, user)
    ends = ends.filter(F.col(_LAST) < F.col(_FIRST)).select(user, _FIRST)
    own = rows.join(ends, user, "left_semi").join(stored, [user, place], "left")
    copies = stored.join(ends, user).filter(F.col(place) >= F.col(_FIRST))
    copies = copies.select(user, F.col(_VALUES).alias(_COPIES)).distinct()
    same = own.join(copies, (own[user] == copies[user]) & (own[_VALUES] == copies[_COPIES]), "left_semi")
    gone = own.filter(F.col(_VALUES).isNull())
    return same.select(user).unionByName(gone.select(user)).distinct()


def _digest(cut: Cut, events: EventGroup) -> Column:
    """What tells values of events apart; maps have no hash."""
    types = cut.spec.types
    return F.xxhash64(*(c for c in events.columns if "map<" not in types[c].lower()), F.lit(0))
