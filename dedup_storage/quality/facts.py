"""What the gate reads from staged frames: one narrow row per request, and counts over the dataset.

Lists never leave the scan: a rule about a list reads a number or a truth value that stands for it. Both layouts end
in the same two frames, so the rules need not know the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dedup_storage.layout import DatasetSpec, free_name
from dedup_storage.quality.columns import column_types, derived_columns, time_bounds
from dedup_storage.quality.model import GateFacts
from dedup_storage.schema import Grain
from dedup_storage.spark.types import comparable_text

__all__ = ["Audited", "audited", "narrow_rows", "with_derived", "with_writer_facts"]


class Audited(NamedTuple):
    """Frames and counts of one audit.

    Attributes:
        requests: One row per request row (flat layout: per request), narrow, cached while the audit runs.
        counts: Dataset facts that were counted, by name.
    """

    requests: DataFrame
    counts: Mapping[str, int]


@contextmanager
def audited(
    spec: DatasetSpec,
    names: Iterable[str],
    *,
    requests: DataFrame | None,
    impressions: DataFrame,
    constancy: bool,
    derived: bool = False,
) -> Iterator[Audited]:
    """Reduce the staged rows to what the rules read, and count, in one job; release the cache at the end.

    Every shuffle carries at most two rows per request and holds the positions of a request as one set: impressions
    are never shuffled one by one.

    Args:
        spec: The dataset.
        names: Scalar and derived request-grain columns that rules read.
        requests: Request rows; ``None`` in flat layout.
        impressions: Impression rows, or the flat log.
        constancy: Compare the request-grain columns of the flat log's rows, whole lists included.
        derived: ``requests`` has the derived columns in place of its lists (``with_derived``).

    Yields:
        ``counts`` holds request_rows, impression_rows, null_items, duplicate_impression_keys; in split layout also
        duplicate_request_keys, orphan_impressions, empty_requests; with ``constancy`` inconstant_requests. Duplicates
        are the rows too many. Rows with a null key count as rows only, since a rule of their own refuses them.
    """
    inner = _Names(spec)
    wanted = [*spec.request_key, *(n for n in dict.fromkeys(names) if n not in spec.request_key)]
    if requests is None:
        rows = _collapse(spec, impressions, wanted, inner, constancy=constancy)
    else:
        rows = narrow_rows(requests, spec, wanted, derived=derived)
    rows = rows.persist()
    try:
        grouped = rows if requests is None else _count_per_request(spec, rows, impressions, inner)
        yield Audited(
            rows.select(*wanted), _total(spec, grouped, inner, split=requests is not None, constancy=constancy)
        )
    finally:
        rows.unpersist()


class _Names:
    """Names of the columns that only the audit has; none of them is a column of the dataset."""

    def __init__(self, spec: DatasetSpec) -> None:
        made = derived_columns(spec)
        taken = [*column_types(spec), *made.lengths.values(), *made.flags]
        self.place, self.from_requests, self.digest, self.requests = (
            free_name(f"_gate_{name}", taken) for name in ("place", "from_requests", "digest", "requests")
        )
        self.impressions, self.twice, self.differs, self.no_item, self.no_items = (
            free_name(f"_gate_{name}", taken) for name in ("impressions", "twice", "differs", "no_item", "no_items")
        )


def narrow_rows(frame: DataFrame, spec: DatasetSpec, names: Iterable[str], *, derived: bool = False) -> DataFrame:
    """The named columns of a staged frame, derived ones computed, and nothing else.

    Args:
        frame: Rows with the lists, ``requests`` or ``logs``; or ``impressions``.
        spec: The dataset.
        names: Scalar and derived columns.
        derived: The frame has the derived columns (``with_derived``).

    Returns:
        As many rows, one column per name, no lists.
    """
    made = {} if derived else _derivations(spec)
    return frame.select(*(made[n]().alias(n) if n in made else F.col(n) for n in dict.fromkeys(names)))


def with_derived(requests: DataFrame, spec: DatasetSpec) -> DataFrame:
    """Request rows, and what rules read of their lists beside them, so that the lists can go.

    Args:
        requests: Rows with the lists.
        spec: The dataset.
    """
    return requests.withColumns({name: made() for name, made in _derivations(spec, requests.columns).items()})


def _derivations(spec: DatasetSpec, there: Collection[str] | None = None) -> Mapping[str, Callable[[], Column]]:
    """Derived column -> how it is made, of the columns that are there."""
    columns = derived_columns(spec)
    event_time = spec.schema_.event_time

    def length(sequence: str) -> Callable[[], Column]:
        return lambda: F.array_size(F.col(sequence))

    def parallel(members: list[str]) -> Callable[[], Column]:
        def build() -> Column:
            sizes = [F.coalesce(F.array_size(F.col(m)), F.lit(0)) for m in members]
            return reduce(lambda left, right: left & right, (sizes[0] == size for size in sizes[1:]))

        return build

    def not_later(sequence: str) -> Callable[[], Column]:
        def build() -> Column:
            newest = F.array_max(F.col(sequence))
            # A history without a request time to compare with cannot be shown to be free of leakage.
            return newest.isNull() | F.coalesce(newest <= F.col(str(event_time)), F.lit(False))

        return build

    def ordered(sequence: str) -> Callable[[], Column]:
        def build() -> Column:
            known = F.array_compact(F.col(sequence))
            return known.isNull() | (F.sort_array(known) == known)

        return build

    bounds, types = time_bounds(spec), column_types(spec)

    def within(name: str) -> Callable[[], Column]:
        def build() -> Column:
            many = types[name].startswith("array<")
            least, greatest = (F.array_min(name), F.array_max(name)) if many else (F.col(name), F.col(name))
            (low, high), _ = bounds[name]
            parts = [] if low is None else [_compared(least, low, last=False)]
            parts += [] if high is None else [_compared(greatest, high, last=True)]
            return reduce(lambda left, right: left & right, parts)

        return build

    found: dict[str, Callable[[], Column]] = {name: length(s) for s, name in columns.lengths.items()}
    for group, name in columns.parallel.items():
        found[name] = parallel([s.column for s in spec.schema_.sequences if s.group == group])
    found.update({name: not_later(s) for s, name in columns.not_later.items()})
    found.update({name: ordered(s) for s, name in columns.ordered.items()})
    found.update({name: within(c) for c, name in columns.within.items() if there is None or c in there})
    return found


def _compared(value: Column, bound: object, *, last: bool) -> Column:
    """Whether a time is not after (``last``) or not before a bound in UTC, whatever zone the session has.

    A day as the last bound is its end.
    """
    moment = bound if isinstance(bound, datetime) else datetime.fromisoformat(f"{bound}T00:00:00")
    if last and not isinstance(bound, datetime):
        moment += timedelta(days=1, microseconds=-1)
    naive = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo is not None else moment
    micros = F.lit((naive - datetime(1970, 1, 1)) // timedelta(microseconds=1))
    clock = F.expr(f"TIMESTAMP_NTZ'{naive.isoformat(' ')}'")
    instant, by_clock = F.unix_micros(value.cast("timestamp")), value.cast("timestamp_ntz")
    # The type is known when the query is analysed, so one of the two is all that is left of this.
    return F.when(F.typeof(value) == "timestamp", instant <= micros if last else instant >= micros).otherwise(
        by_clock <= clock if last else by_clock >= clock
    )


def _counted(inner: _Names) -> tuple[Column, ...]:
    place = F.col(inner.place)
    return (
        # A set is exact; counts and sums of positions would let some duplicates through.
        (F.count(place) - F.size(F.collect_set(place))).alias(inner.twice),
        (F.min(inner.digest) != F.max(inner.digest)).alias(inner.differs),
        F.count_if(inner.no_item).alias(inner.no_items),
    )


def _collapse(
    spec: DatasetSpec, logs: DataFrame, wanted: Iterable[str], inner: _Names, *, constancy: bool
) -> DataFrame:
    """One row per request of a flat log, its counts beside the wanted columns."""
    derived = derived_columns(spec)
    flags = derived.flags
    lengths = set(derived.lengths.values())
    keys = spec.request_key
    digest = _digest(spec, logs) if constancy else F.lit(None).cast("bigint")
    made = _derivations(spec)
    # The projection below the aggregate keeps the lists out of its buffers and its sort.
    rows = logs.select(
        *(made[n]().alias(n) if n in made else F.col(n) for n in wanted),
        F.col(spec.position_column).alias(inner.place),
        digest.alias(inner.digest),
        F.col(spec.schema_.item).isNull().alias(inner.no_item),
    )
    values = [n for n in wanted if n not in keys]
    return rows.groupBy(*keys).agg(
        *((F.bool_and(n) if n in flags else F.max(n) if n in lengths else F.first(n)).alias(n) for n in values),
        F.count(F.lit(1)).alias(inner.impressions),
        *_counted(inner),
    )


def _count_per_request(spec: DatasetSpec, rows: DataFrame, impressions: DataFrame, inner: _Names) -> DataFrame:
    """One row per request key of either frame, with the number of rows in each."""
    keys, position = spec.request_key, spec.position_column
    no_digest = F.lit(None).cast("bigint").alias(inner.digest)
    no_place = F.lit(None).cast(impressions.schema[position].dataType).alias(inner.place)
    no_item = F.col(spec.schema_.item).isNull().alias(inner.no_item)
    both = impressions.select(
        *keys, F.col(position).alias(inner.place), F.lit(0).alias(inner.from_requests), no_digest, no_item
    ).unionByName(
        rows.select(*keys, no_place, F.lit(1).alias(inner.from_requests), no_digest, F.lit(False).alias(inner.no_item))
    )
    from_requests = F.sum(inner.from_requests)
    return both.groupBy(*keys).agg(
        from_requests.alias(inner.requests),
        (F.count(F.lit(1)) - from_requests).alias(inner.impressions),
        *_counted(inner),
    )


def _total(spec: DatasetSpec, grouped: DataFrame, inner: _Names, *, split: bool, constancy: bool) -> dict[str, int]:
    known = reduce(lambda left, right: left & right, (F.col(k).isNotNull() for k in spec.request_key))
    impressions = F.col(inner.impressions)
    counts = {
        "impression_rows": F.sum(impressions),
        "duplicate_impression_keys": F.sum(F.when(known, F.col(inner.twice))),
        "null_items": F.sum(inner.no_items),
    }
    if split:
        requests = F.col(inner.requests)
        counts["request_rows"] = F.sum(requests)
        counts["duplicate_request_keys"] = F.sum(F.when(known & (requests > 1), requests - 1))
        counts["orphan_impressions"] = F.sum(F.when(known & (requests == 0), impressions))
        counts["empty_requests"] = F.count_if(known & (impressions == 0))
    else:
        counts["request_rows"] = F.count(F.lit(1))
        if constancy:
            counts["inconstant_requests"] = F.count_if(known & F.col(inner.differs))
    row = grouped.agg(*(F.coalesce(column, F.lit(0)).alias(fact) for fact, column in counts.items())).first()
    return {fact: int(row[fact]) for fact in counts} if row is not None else dict.fromkeys(counts, 0)


def _digest(spec: DatasetSpec, logs: DataFrame) -> Column:
    """64-bit digest of a row's request-grain columns; nulls are told apart from values by flags of their own."""
    types = column_types(spec)
    parts: list[Column] = []
    for column in spec.columns_of(Grain.REQUEST):
        # Spark does not hash maps.
        mapped = "map<" in types[column]
        parts.append(comparable_text(F.col(column), logs.schema[column].dataType) if mapped else F.col(column))
        parts.append(F.col(column).isNull())
    return F.xxhash64(*parts) if parts else F.lit(0).cast("bigint")


def with_writer_facts(counted: Mapping[str, int], facts: GateFacts) -> dict[str, int | float]:
    """All dataset facts: the counted ones, the writer's, and what follows from them."""
    found: dict[str, int | float] = dict(counted)
    requests = counted["request_rows"]
    found["dedup_factor"] = counted["impression_rows"] / requests if requests else 0.0
    if facts.inconstant_requests is not None:
        found["inconstant_requests"] = facts.inconstant_requests
    if facts.existing_request_keys is not None:
        found["existing_request_keys"] = facts.existing_request_keys
    if facts.input_rows is not None:
        found["input_rows"] = facts.input_rows
        found["quarantined_rows"] = facts.quarantined_rows
        found["dropped_duplicates"] = facts.dropped_duplicates
        found["expected_impression_rows"] = facts.input_rows - facts.quarantined_rows - facts.dropped_duplicates
    if facts.written_impression_rows is not None:
        found["written_impression_rows"] = facts.written_impression_rows
    if facts.written_request_rows is not None:
        found["written_request_rows"] = facts.written_request_rows
    if facts.empty_requests is not None:
        found["expected_empty_requests"] = facts.empty_requests
    return found
