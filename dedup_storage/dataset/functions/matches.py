"""Target-aware features: the candidate against the history, without a copy of the history for each candidate."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.dataset.functions.sequences import elapsed_seconds
from dedup_storage.dataset.functions.windows import not_after
from dedup_storage.errors import SchemaError, UnknownColumnError, UsageError, known_names
from dedup_storage.schema import check_name
from dedup_storage.spark.types import compared_as_they_are

__all__ = ["with_target_matches"]

_CANDIDATES, _SEEN, _LAST = "_candidates", "_seen", "_last"
_PLACE, _ITEM, _AGO, _SECONDS = "_place", "_matched", "_ago", "_seconds"


def with_target_matches(
    impressions: DataFrame,
    requests: DataFrame,
    *,
    keys: Sequence[str],
    item: str,
    history: str,
    times: str | None = None,
    at: str | None = None,
    prefix: str = "match",
) -> DataFrame:
    """Say of each candidate whether, how often and how long ago it stands in its request's history.

    With x the history, t its times, i the candidate and M = {j : x_j = i, t_j <= at} (``times`` not given: all j):

    - ``<prefix>_count``, bigint: |M|, duplicates each; 0 when the candidate was never seen;
    - ``<prefix>_events_ago``, int: n - max M, so 0 is the newest event; null when never seen;
    - ``<prefix>_recency_seconds``, double, with ``times``: at - max{t_j : j in M}; null when never seen.

    A null item, a null element, and with ``times`` an event without a time match nothing; a missing history is empty.
    An impression whose request is missing gets a count of 0. A candidate shown twice gets the same values twice.

    How: the candidates of a request are gathered into one list (B narrow rows become R), laid beside the history (R
    rows; the wide side is neither sorted nor, between co-bucketed tables, shuffled), and of the history's events only
    those that match go on. A history is read once per request, whatever B / R is.

    Args:
        impressions: (B rows) with ``keys`` and ``item``; every column is kept, the new ones are appended.
        requests: (R rows, one for each key) with ``keys``, ``history``, and ``times`` and ``at`` where given.
        keys: Request key; name the event date too where both frames have it, so that segments stay apart.
        item: Candidate column of ``impressions``.
        history: List column of ``requests`` that holds items, newest last.
        times: Parallel list of timestamps.
        at: The request's time; goes with ``times``.
        prefix: Beginning of the new columns' names.

    Raises:
        UnknownColumnError: a frame lacks a column.
        UsageError: ``times`` without ``at`` or the other way round, or a new column's name is taken.
        SchemaError: the items and the history, or a key of both frames, are of types that Spark would have to cast.
    """
    if (times is None) != (at is None):
        raise UsageError("times and at go together", expected="both or neither", got=f"times={times}, at={at}")
    wide = [history, *(c for c in (times, at) if c is not None)]
    _require(impressions, [*keys, item], "the impressions")
    _require(requests, [*keys, *wide], "the requests")
    for key in keys:
        _require_alike(key, impressions.schema[key].dataType, key, requests.schema[key].dataType)
    listed = requests.schema[history].dataType
    seen = listed.elementType if isinstance(listed, T.ArrayType) else listed
    _require_alike(item, impressions.schema[item].dataType, history, seen)
    names = [f"{check_name(prefix, 'prefix')}_count", f"{prefix}_events_ago"]
    names += [f"{prefix}_recency_seconds"] if times is not None else []
    for name in names:
        if name in impressions.columns:
            raise UsageError(f"the impressions have a column {name} already", fix="Choose another prefix.")
    shown = impressions.filter(F.col(item).isNotNull()).groupBy(*keys).agg(F.collect_set(item).alias(_CANDIDATES))
    # The narrow side is hashed: a sort would move every history.
    beside = requests.select(*keys, *wide).join(shown.hint("shuffle_hash"), list(keys))
    events = _matching(beside, keys, history, times, at)
    aggregates = [F.count(F.lit(1)).alias(names[0]), F.min(_AGO).alias(names[1])]
    if times is not None:
        aggregates.append(F.min(_SECONDS).alias(names[2]))
    matches = events.groupBy(*keys, F.col(_ITEM).alias(item)).agg(*aggregates)
    joined = impressions.join(matches.hint("shuffle_hash"), [*keys, item], "left")
    features = [F.coalesce(names[0], F.lit(0)).alias(names[0]), *map(F.col, names[1:])]
    return joined.select(*map(F.col, impressions.columns), *features)


def _matching(beside: DataFrame, keys: Sequence[str], history: str, times: str | None, at: str | None) -> DataFrame:
    """One narrow row for each event that one of the request's candidates equals.

    All of it is generated code in one stage: events become rows that no operator copies or stores before the filter.
    Lambdas over the lists took ten times as long.
    """
    items = F.col(history)
    last = (F.array_size(items) - 1).alias(_LAST)
    seen = beside.withColumns({_LAST: last, _SEEN: F.array_intersect(items, F.col(_CANDIDATES))})
    # The candidates that occur at all: few, so that each event is compared with few.
    outer = [*keys, _SEEN, _LAST, *(c for c in (times, at) if c is not None)]
    events = seen.select(*outer, F.posexplode(F.when(F.array_size(_SEEN) > 0, items)).alias(_PLACE, _ITEM))
    events = events.filter(F.array_contains(_SEEN, F.col(_ITEM)))
    ago = (F.col(_LAST) - F.col(_PLACE)).alias(_AGO)
    if times is None or at is None:
        return events.select(*keys, _ITEM, ago)
    time = F.get(F.col(times), F.col(_PLACE))
    return events.filter(not_after(time, F.col(at))).select(
        *keys, _ITEM, ago, elapsed_seconds(time, F.col(at)).alias(_SECONDS)
    )


def _require(frame: DataFrame, columns: Sequence[str], what: str) -> None:
    for column in columns:
        if column not in frame.columns:
            raise UnknownColumnError(f"{what} have no column {column}", expected=known_names(column, frame.columns))


def _require_alike(column: str, kind: T.DataType, other: str, kind_of_other: T.DataType) -> None:
    """Check that two columns hold values that Spark compares as they are; a cast makes one of ids that differ."""
    if not compared_as_they_are(kind, kind_of_other):
        raise SchemaError(
            f"the {column} of the impressions and the {other} of the requests cannot be compared",
            expected="values of one type, or integers",
            got=f"{kind.simpleString()} and {kind_of_other.simpleString()}",
            fix="Cast one of them.",
        )
