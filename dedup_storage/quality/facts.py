"""What the gate reads from staged frames: narrow rows for Great Expectations, and one row of counts.

Lists never leave the scan: a rule about a list reads a number or a truth value that stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dedup_storage.layout import DatasetSpec, free_name
from dedup_storage.quality.columns import column_types, derived_columns
from dedup_storage.quality.model import GateFacts
from dedup_storage.schema import Grain

__all__ = ["count_facts", "narrow_rows", "with_writer_facts"]


def narrow_rows(frame: DataFrame, spec: DatasetSpec, names: Iterable[str]) -> DataFrame:
    """The named columns of a staged frame, derived ones computed, and nothing else.

    Args:
        frame: Rows with the lists, ``requests`` or ``logs``; or ``impressions``.
        spec: The dataset.
        names: Scalar and derived columns.

    Returns:
        As many rows, one column per name, no lists.
    """
    derived = _derivations(spec)
    return frame.select(*(derived[n]().alias(n) if n in derived else F.col(n) for n in dict.fromkeys(names)))


def _derivations(spec: DatasetSpec) -> Mapping[str, Callable[[], Column]]:
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

    found: dict[str, Callable[[], Column]] = {name: length(s) for s, name in columns.lengths.items()}
    for group, name in columns.parallel.items():
        found[name] = parallel([s.column for s in spec.schema_.sequences if s.group == group])
    found.update({name: not_later(s) for s, name in columns.not_later.items()})
    return found


def count_facts(
    spec: DatasetSpec,
    *,
    requests: DataFrame | None,
    impressions: DataFrame,
    constancy: bool = False,
) -> dict[str, int]:
    """Count rows, duplicate keys and orphans in one job.

    Both frames are reduced to a row per request before anything is shuffled, with the positions as a set, so the
    shuffle carries about as many rows as there are requests.

    Args:
        spec: The dataset.
        requests: Request rows; ``None`` in flat layout.
        impressions: Impression rows, or the flat log.
        constancy: Compare the request-grain columns of the flat log's rows (reads every list).

    Returns:
        ``request_rows``, ``impression_rows``, ``duplicate_impression_keys``; with ``requests`` also
        ``duplicate_request_keys``, ``orphan_impressions``, ``empty_requests``; with ``constancy``
        ``inconstant_requests``. Duplicates count the rows too many; rows with a null key are no duplicates, since
        another rule refuses them.
    """
    keys, position = spec.request_key, spec.position_column
    taken = [*keys, position]

    def name(wanted: str) -> str:
        taken.append(free_name(wanted, taken))
        return taken[-1]

    place, from_requests, digest = name("place"), name("from_requests"), name("digest")
    content = _digest(spec) if constancy else F.lit(None).cast("bigint")
    rows = impressions.select(*keys, F.col(position).alias(place), F.lit(0).alias(from_requests), content.alias(digest))
    if requests is not None:
        no_place = F.lit(None).cast(impressions.schema[position].dataType)
        rows = rows.unionByName(
            requests.select(
                *keys, no_place.alias(place), F.lit(1).alias(from_requests), F.lit(None).cast("bigint").alias(digest)
            )
        )
    request_rows, impression_rows, twice, differs = (name(n) for n in ("r", "b", "twice", "differs"))
    grouped = rows.groupBy(*keys).agg(
        F.sum(from_requests).alias(request_rows),
        (F.count(F.lit(1)) - F.sum(from_requests)).alias(impression_rows),
        (F.count(place) - F.size(F.collect_set(place))).alias(twice),
        (F.min(digest) != F.max(digest)).alias(differs),
    )
    known = reduce(lambda left, right: left & right, (F.col(k).isNotNull() for k in keys))
    r, b = F.col(request_rows), F.col(impression_rows)
    counts = {"impression_rows": F.sum(b), "duplicate_impression_keys": F.sum(F.when(known, F.col(twice)))}
    if requests is None:
        counts["request_rows"] = F.count(F.lit(1))
        if constancy:
            counts["inconstant_requests"] = F.count_if(known & F.col(differs))
    else:
        counts["request_rows"] = F.sum(r)
        counts["duplicate_request_keys"] = F.sum(F.when(known & (r > 1), r - 1))
        counts["orphan_impressions"] = F.sum(F.when(known & (r == 0), b))
        counts["empty_requests"] = F.count_if(known & (b == 0))
    row = grouped.agg(*(F.coalesce(column, F.lit(0)).alias(fact) for fact, column in counts.items())).first()
    return {fact: int(row[fact]) for fact in counts} if row is not None else dict.fromkeys(counts, 0)


def _digest(spec: DatasetSpec) -> Column:
    """64-bit digest of a row's request-grain columns; nulls are told apart from values by flags of their own."""
    types = column_types(spec)
    parts: list[Column] = []
    for column in spec.columns_of(Grain.REQUEST):
        # Spark does not hash maps.
        parts.append(F.to_json(F.col(column)) if "map<" in types[column] else F.col(column))
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
