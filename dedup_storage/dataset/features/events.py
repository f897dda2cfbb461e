"""Features of events, in layout ``user``: a row an event of one sequence group, computed from that event alone.

An event's position never changes and its values neither, so that what was computed stays right: only events that have
no row yet are computed, and whatever was there is left as it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from operator import or_

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.features.inputs import Inputs
from dedup_storage.dataset.features.recipe import Recipe
from dedup_storage.dataset.features.window import EVERYTHING, Window
from dedup_storage.dataset.handle import Cut
from dedup_storage.errors import ConflictError, InputError, SchemaError, UsageError, known_names
from dedup_storage.event_groups import EventGroup
from dedup_storage.lake.groups import FeatureGroup, FeatureSource, SourceKind
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import Run
from dedup_storage.lake.segments import LAY_ANEW
from dedup_storage.layout import DatasetSpec
from dedup_storage.words import counted

__all__ = [
    "EventInputs",
    "choose_sequence",
    "refuse_key_names",
    "refuse_other_lists",
    "refuse_other_options",
    "refuse_own_lists",
]


class EventInputs(Inputs):
    """The events of one sequence group, and nothing else: what a feature of them is computed from.

    Args:
        cut: The version.
        group: The feature group.
        new: Only events that it has no row of.
    """

    def __init__(self, cut: Cut, group: FeatureGroup, *, new: bool = False) -> None:
        super().__init__(cut, grain=group.grain, groups={}, uses=(), window=EVERYTHING, sequence=group.sequence)
        self.group, self.events, self.new = group, group.events_of(cut.spec), new

    @property
    def key(self) -> tuple[str, ...]:
        """The user and the event's position."""
        return self.group.key(self.spec)

    @property
    def dates(self) -> tuple[str, ...]:
        """The epoch of first appearance, null in a dataset without epochs."""
        return (self.events.epoch_column,)

    @property
    def other_columns(self) -> tuple[str, ...]:
        """None: an event belongs to many requests."""
        return ()

    def keys(self, window: Window) -> DataFrame:
        """User, position and epoch of the events, each once; the window is all that there is."""
        return self._events().select(*self.key, *self.dates)

    def narrow(self) -> DataFrame:
        """The events: user, position, epoch, the group's columns in the log's types."""
        types = self.events.types(self.spec.types, self.spec.schema_.user)
        rows = self._events()
        return rows.select(*(F.col(c).cast(types[c]).alias(c) for c in (*self.key, *self.dates, *self.events.columns)))

    def wide(self) -> DataFrame:
        """The same: no other grain has rows of an event."""
        return self.narrow()

    def fitted(self, frame: DataFrame, recipe: Recipe, *, judged: bool) -> DataFrame:
        """What was computed, as it is stored: of a frame that was given the rows of these events.

        Where missing ones may be null, every event has a row all the same: lists are cut by position.

        Args:
            frame: As it was computed.
            recipe: By what.
            judged: Whether the gate refuses missing rows.
        """
        if recipe.rows is None:
            return frame
        key, keys = list(self.key), self.keys(EVERYTHING)
        if self.group.missing == "null" or not judged:
            return keys.join(frame.drop(*self.dates), key, "left")
        # A frame of all events is as good as one of the new ones.
        return frame.join(keys.select(*key), key, "left_semi") if self.new else frame

    def _events(self) -> DataFrame:
        rows = self.cut.stored(self.events.table)
        if not self.new:
            return rows
        # The epoch aligns partitions; in a dataset without epochs it is null, which no join matches.
        on = [*self.key, *(self.dates if self.spec.has_epochs else ())]
        return rows.join(self.cut.stored(self.group.table).select(*on), on, "left_anti")

    def refuse_other_rows(self, source: FeatureSource) -> None:
        """Refuse expressions over several events: of new events alone they would give other values.

        Raises:
            InputError: names the column.
        """
        rows = self.narrow()
        for column, text in source.expressions.items():
            try:
                # A condition is what Spark lets look at one row alone.
                rows.filter(F.expr(text).isNotNull()).schema  # noqa: B018
            except AnalysisException as error:
                raise InputError(
                    f"the column {column} of the feature group {self.group.name} looks at more than one event",
                    expected="an expression over the columns of the event: " + ", ".join(rows.columns),
                    got=f"{text[:200]} ({error.getCondition()})",
                    fix="Compute it in a frame with the user, the position and the column, and give that.",
                ) from None


def refuse_other_options(
    recipe: Recipe, *, lookback: int | None, uses: Iterable[str], across_users: bool, group: str
) -> None:
    """Refuse what a feature of events cannot have: each of them would make it depend on more than its event.

    Raises:
        UsageError: names the first.
    """
    asked = {
        "a look-back": lookback != 0,
        "uses": bool(tuple(uses)),
        "across_users": across_users,
        "a function": recipe.source.kind is SourceKind.FUNCTION,
    }
    for what, there in asked.items():
        if there:
            raise UsageError(
                f"{what} is not there for the feature group {group}, which is at event grain",
                expected="SQL expressions over the columns of an event, a lookup, or a frame with user and position",
                fix="An event is computed once, from itself alone. Give another source, or another grain.",
            )


def choose_sequence(spec: DatasetSpec, wanted: str | None) -> EventGroup:
    """The sequence group that a name stands for; ``None`` stands for the only one there is.

    Raises:
        UsageError: the dataset stores no events once, has several such groups, or none of the name.
    """
    if not spec.events:
        raise UsageError(
            f"features at event grain are not there for {spec.name}, which does not store each event once",
            expected="layout user",
            got=f"layout {spec.layout.value}",
            fix="Compute a list for each request: grain request.",
        )
    names = [group.name for group in spec.events]
    found = [group for group in spec.events if wanted is None or group.name == wanted]
    if len(found) != 1:
        raise UsageError(
            f"the dataset {spec.name} has no sequence group {wanted}"
            if wanted is not None
            else f"the dataset {spec.name} has several sequence groups",
            expected=known_names(wanted or "", names),
            got=wanted or "none named",
            fix="Name one: sequence (--sequence).",
        )
    return found[0]


def refuse_key_names(events: EventGroup, user: str, names: Iterable[str], group: str) -> None:
    """Refuse features with the names of the columns that their table has beside them.

    Raises:
        SchemaError: names the column.
    """
    taken = {c.lower() for c in (user, events.position_column, events.epoch_column)}
    for name in names:
        if name.lower() in taken:
            raise SchemaError(
                f"the column {name} of the feature group {group} has the name of a key of {events.table}",
                expected="another name than " + ", ".join(sorted(taken)),
                fix="Choose another name.",
            )


def refuse_own_lists(cut: Cut, group: FeatureGroup) -> None:
    """Refuse lists whose elements are no events, where every element is to have a value.

    Raises:
        UsageError: requests keep lists of their own, since these are no windows of their users' lists.
    """
    if group.missing != "refuse":
        return
    events, table = group.events_of(cut.spec), cut.spec.anchor.name
    own = F.col(events.runs_column).isNull() & reduce(or_, (F.col(c).isNotNull() for c in events.columns))
    count = cut.stored(table).filter(own).count()
    if count:
        raise UsageError(
            f"{counted(count, 'request keeps lists', 'requests keep lists')} of {events.name} in the table {table}, "
            f"since these are no windows of their users' lists: the feature group {group.name} has no values for them",
            expected=f"every list of {', '.join(events.columns)} made of events of {events.table}",
            fix="Let their elements be null: missing='null' (--missing null).",
        )


def refuse_other_lists(run: Run, dataset: str) -> Callable[[DatasetMetadata], None]:
    """A check before publication that the events which a run read are still those of their positions, and all that
    lists of before are made of.

    Raises:
        ConflictError: a rollback took events away, whose positions others may have by now; or lists were laid anew, of
            copies of events that the run has no rows of.
    """

    def check(now: DatasetMetadata) -> None:
        if run.base not in now.lineage(now.current):
            raise ConflictError(
                f"another run rolled {dataset} back, so that events have other positions than those this run read",
                expected=f"version {run.base} to be one that version {now.current} comes from",
                fix="Nothing was published. Run the job again.",
            )
        since = (version for version in range(run.base + 1, now.current + 1) if version not in now.abandoned)
        if any(now.claim(version).get("mode") == LAY_ANEW for version in since):
            raise ConflictError(
                f"lists of {dataset} were laid anew meanwhile: they are made of copies of events, which this run did "
                "not read",
                fix="Nothing was published. Run the job again.",
            )

    return check
