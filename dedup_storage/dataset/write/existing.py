"""A log's requests beside those that a dataset holds, and its impressions beside its own requests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Cut
from dedup_storage.dataset.write.audit import of_dates
from dedup_storage.dataset.write.collapse import RequestKeys
from dedup_storage.dataset.write.inconstant import example_requests
from dedup_storage.errors import DuplicateRowsError, InputError
from dedup_storage.lake.cells import whole_month
from dedup_storage.lake.ranges import in_ranges
from dedup_storage.layout import DatasetSpec
from dedup_storage.schema import DateGrain
from dedup_storage.sources.raw import RawLog
from dedup_storage.words import counted

__all__ = [
    "carried_rows",
    "has_segments",
    "orphaned",
    "refuse_carried",
    "refuse_orphans",
    "refuse_repeated",
    "stored_requests",
]


def has_segments(cut: Cut, keys: RequestKeys) -> bool:
    """Whether a version may have rows in the segments that a log's dates lie in, from metadata alone."""
    grain, dates = cut.spec.date_grain, keys.stats.dates
    if not dates or grain is DateGrain.NONE:
        return True
    try:
        first, last = date.fromisoformat(dates[0]), date.fromisoformat(dates[-1])
    except ValueError:
        # Years that only Spark has.
        return True
    if grain is DateGrain.MONTH:
        first, last = whole_month(first)[0], whole_month(last)[1]
    table = cut.spec.anchor.name
    return cut.meta.may_hold(table, cut.snapshots[table], first, last)


def stored_requests(cut: Cut, keys: RequestKeys) -> DataFrame:
    """Those of a log's requests that a version holds already, in the segments that the log's dates lie in.

    Whole segments, since no two requests of one may have one key, whatever their dates.
    """
    spec, dates = cut.spec, keys.stats.dates
    names = list(spec.request_key)
    rows = cut.stored(spec.anchor.name)
    if dates and spec.date_grain is not DateGrain.NONE:
        day = F.col(str(spec.event_date_column))
        first, last = F.lit(dates[0]).cast("date"), F.lit(dates[-1]).cast("date")
        if spec.date_grain is DateGrain.MONTH:
            first, last = F.trunc(first, "month"), F.last_day(last)
        rows = rows.filter((day >= first) & (day <= last))
    return keys.frame.join(rows.select(*names), names, "left_semi")


def carried_rows(cut: Cut, table: str, replaced: Sequence[tuple[str, str]], dates: Sequence[str]) -> DataFrame:
    """A version's rows in replaced segments whose date is not one of the log's.

    Args:
        cut: The version.
        table: Table name.
        replaced: Half-open ranges of event dates (ISO).
        dates: Event dates of the log (ISO).
    """
    column = str(cut.spec.event_date_column)
    return of_dates(cut.stored(table).filter(in_ranges(column, replaced)), column, dates, "left_anti")


def refuse_carried(spec: DatasetSpec, carried: DataFrame, keys: RequestKeys) -> None:
    """Refuse requests that a replaced segment has under a date that is not replaced.

    Raises:
        DuplicateRowsError: there are some.
    """
    names = list(spec.request_key)
    existing = keys.frame.join(carried.select(*names), names, "left_semi")
    count = existing.count()
    if count:
        raise DuplicateRowsError(
            f"{counted(count, 'request', 'is')} in the dataset {spec.name} already, under event dates that the log "
            "does not replace",
            expected="a request under one event date",
            got=f"for example {example_requests(spec, existing)}",
            fix="Correct the event times of the log, or write a log that holds those dates too.",
        )


def refuse_orphans(raw: RawLog, keys: RequestKeys) -> None:
    """Refuse a log of two frames with impressions that have no request row; reads the keys of both.

    Raises:
        InputError: there are some.
    """
    if raw.candidates is None:
        return
    names = list(raw.schema.request_key)
    count = raw.candidates.select(*names).join(keys.frame.select(*names), names, "left_anti").count()
    if count:
        raise orphaned(count)


def refuse_repeated(spec: DatasetSpec, rows: int) -> None:
    """Refuse impressions that have the key of another one.

    Raises:
        DuplicateRowsError: there are some.
    """
    if rows:
        raise DuplicateRowsError(
            f"{counted(rows, 'impression', 'has')} the key of another one in the log",
            expected=f"one row for each {', '.join(spec.impression_key)}",
            fix="Choose --on-duplicates keep-one, or leave position out of the schema to have it assigned.",
        )


def orphaned(impressions: int) -> InputError:
    """The error for impressions without a request row."""
    return InputError(
        f"{counted(impressions, 'impression', 'belongs')} to no request of the log",
        expected="a request row for every impression",
        fix="Add the missing request rows, or leave those impressions out.",
    )
