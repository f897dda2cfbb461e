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
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.segments import LAY_ANEW
from dedup_storage.sources.named import exact_keys
from dedup_storage.spark.rows import only_row
from dedup_storage.words import counted

__all__ = ["refuse_former_positions"]

_FIRST, _LAST, _VALUES, _COPIES, _FORMER, _BEGIN = (
    f"_dedup_{name}" for name in ("first", "last", "values", "copies", "former", "begin")
)


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
    laid = next((v for v in meta.lineage(cut.version) if _laid(meta, v, events.table)), None)
    if laid is None:
        return
    seen = F.count(F.lit(1)).alias("all"), F.count_if(_FORMER).alias("former")
    users = only_row(_users(cut, events, frame, feature).agg(*seen))
    # Of some users a right frame may have former events alone: those before a date, say.
    if 2 * users["former"] > users["all"]:
        told = (
            f"of {users['former']} of {counted(users['all'], 'user')} with events of before it has none of their lists"
        )
        raise UsageError(
            f"the frame of the feature group {feature} has positions of before version {laid}, which laid lists of "
            f"{cut.spec.name} anew: {told} as they are now",
            expected=f"{events.position_column} as {events.table} has it in version {cut.version}, where copies of "
            "these events stand at other positions, with the same values, unless they were dropped",
            fix=f"Nothing was published. Read {events.table} as it is now, and compute the frame of it anew.",
        )


def _laid(meta: DatasetMetadata, version: int, table: str) -> bool:
    """Whether a version laid lists of a group anew; where its parent is gone, whether it laid any."""
    claim = meta.claim(version)
    if claim.get("mode") != LAY_ANEW:
        return False
    before = meta.snapshots(meta.parent(version)).get(table)
    return before is None or before != meta.snapshots(version).get(table)


def _users(cut: Cut, events: EventGroup, frame: DataFrame, feature: str) -> DataFrame:
    """Users of the frame who have events before the first that their lists name; ``_FORMER``: it has those alone."""
    user, place = events.key(cut.spec.schema_.user)
    stored = cut.stored(events.table).select(user, place, _digest(cut, events).alias(_VALUES))
    kinds = {f.name: f.dataType for f in stored.schema.fields if f.name in (user, place)}
    rows = exact_keys(frame.select(user, place), kinds, f"rows of the feature group {feature}")
    named = F.filter(F.col(events.runs_column), lambda run: run["length"] > 0)
    first = F.min(F.array_min(F.transform(named, lambda run: run["start"])))
    lists = cut.stored(cut.spec.anchor.name).groupBy(user).agg(first.alias(_FIRST))
    begins = stored.groupBy(user).agg(F.min(place).alias(_BEGIN))
    ends = rows.groupBy(user).agg(F.max(place).alias(_LAST)).join(lists, user).join(begins, user, "left")
    ends = ends.filter((F.col(_LAST) < F.col(_FIRST)) | (F.col(_BEGIN) < F.col(_FIRST)))
    short = ends.filter(F.col(_LAST) < F.col(_FIRST)).select(user, _FIRST)
    own = rows.join(short, user, "left_semi").join(stored, [user, place], "left")
    copies = stored.join(short, user).filter(F.col(place) >= F.col(_FIRST))
    copies = copies.select(user, F.col(_VALUES).alias(_COPIES)).distinct()
    same = own.join(copies, (own[user] == copies[user]) & (own[_VALUES] == copies[_COPIES]), "left_semi")
    gone = own.filter(F.col(_VALUES).isNull())
    former = same.select(user).unionByName(gone.select(user)).distinct().withColumn(_FORMER, F.lit(True))
    return ends.select(user).join(former, user, "left")


def _digest(cut: Cut, events: EventGroup) -> Column:
    """What tells values of events apart; maps have no hash."""
    types = cut.spec.types
    return F.xxhash64(*(c for c in events.columns if "map<" not in types[c].lower()), F.lit(0))
