"""From a raw log to request rows and impression rows, moving each wide row at most once per request.

A flat log repeats the wide request columns B times. Sorting or shuffling it would copy them B times, so:

- the *request keys* are found from the key columns alone (Parquet decodes nothing else);
- where rows have a place (Parquet files), one row of each request is named by a hash of file and row number; one
  scan of the wide columns keeps just those rows (a broadcast join on one integer) before anything is shuffled or
  copied; the other rows' wide columns are hashed where they lie and never leave the scan;
- elsewhere a sorting aggregate keeps one row of each request in every task before the shuffle;
- that the columns are constant inside each request is proved in the same scan: the sum of all rows' fingerprints
  must equal the sum over requests of fingerprint x rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Observation, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dedup_storage.dataset.handle import Handle
from dedup_storage.errors import DuplicateRowsError, InputError
from dedup_storage.layout import DatasetSpec
from dedup_storage.schema import DateGrain, Grain
from dedup_storage.sources.raw import POINTER, Form, RawLog
from dedup_storage.spark.rows import only_row
from dedup_storage.spark.types import fingerprint, has_hidden_nulls, orderable
from dedup_storage.words import counted

__all__ = ["Collapse", "InputStats", "RequestKeys"]

DATE, COUNT = "_dedup_date", "_dedup_rows"
_LEAST, _COPIES = "_dedup_least", "_dedup_copies"
_SEGMENT, _RANK = "_dedup_segment", "_dedup_rank"


@dataclass(frozen=True)
class InputStats:
    """What one look at the keys tells.

    Attributes:
        rows: Impression rows.
        requests: Distinct request keys (request rows for nested and two-frame logs).
        dates: Event dates, ISO, sorted; empty without an event time.
    """

    rows: int
    requests: int
    dates: tuple[str, ...]


@dataclass(frozen=True)
class RequestKeys:
    """The log's requests without their wide columns.

    Attributes:
        frame: Keys, event date (the earliest of the request's rows), number of rows and, for located flat logs, a
            pointer to one of the rows.
        stats: Totals.
        restricted: Only some of the log's requests.
    """

    frame: DataFrame
    stats: InputStats
    restricted: bool = False

    def only(self, frame: DataFrame) -> RequestKeys:
        """Some of these requests."""
        return replace(self, frame=frame, restricted=True)


@dataclass(frozen=True)
class Collapse:
    """Makes a dataset's rows from one raw log.

    Attributes:
        handle: The dataset.
        raw: The log.
        pointer_max_requests: Most requests whose pointers are broadcast.
    """

    handle: Handle
    raw: RawLog
    pointer_max_requests: int

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's description."""
        return self.handle.spec

    def event_date(self) -> Column:
        """The row's event date (UTC)."""
        if self.spec.event_date_column is None:
            return F.lit(None).cast("date")
        if not self.spec.assigns_event_date:
            return F.col(self.spec.event_date_column)
        return F.to_date(F.col(str(self.spec.schema_.event_time)))

    def _segment(self) -> list[Column]:
        parts = [self.handle.bucket]
        if self.spec.event_date_column and self.spec.date_grain is not DateGrain.NONE:
            date = F.col(self.spec.event_date_column)
            parts.insert(0, date if self.spec.date_grain is DateGrain.DAY else F.trunc(date, "month"))
        return parts

    # -- keys ---------------------------------------------------------------------------------------------------

    def keys(self) -> RequestKeys:
        """Find the requests; reads the key columns only.

        Raises:
            InputError: a key or an event time is null, or parallel candidate lists differ in length.
            DuplicateRowsError: two request rows have the same key.
        """
        names = self.spec.request_key
        # Plain minima, not one minimum of a struct: Spark hashes the former and sorts every row for the latter.
        if self.raw.form is Form.FLAT:
            source = self.raw.located_frame() if self.raw.located else self.raw.frame
            pointer = [F.min(POINTER).alias(POINTER)] if self.raw.located else []
            size = [F.count(F.lit(1)).alias(COUNT)]
        else:
            source, pointer = self.raw.frame.withColumn(COUNT, self._candidates()), []
            size = [F.sum(COUNT).alias(COUNT), F.min(COUNT).alias(_LEAST), F.count(F.lit(1)).alias(_COPIES)]
        frame = source.groupBy(*names).agg(F.min(self.event_date()).alias(DATE), *pointer, *size)
        frame = frame.persist(StorageLevel.MEMORY_AND_DISK)
        return RequestKeys(frame, self._stats(frame))

    def _candidates(self) -> Column:
        lists = list(self.raw.schema.candidates)
        if self.raw.form is Form.FRAMES:
            return F.lit(0)
        # A list that is null has no elements; Spark says -1 or null of it.
        first, *others = (F.greatest(F.coalesce(F.size(c), F.lit(0)), F.lit(0)) for c in lists)
        unequal = reduce(or_, (size != first for size in others), F.lit(False))
        return F.when(unequal, F.lit(-1)).otherwise(first)

    def _stats(self, frame: DataFrame) -> InputStats:
        null = {k: F.sum(F.col(k).isNull().cast("int")) for k in self.spec.request_key}
        timed = self.spec.event_date_column is not None
        if timed:
            null[str(self.spec.schema_.event_time)] = F.sum(F.col(DATE).isNull().cast("int"))
        once = self.raw.form is Form.FLAT
        row = only_row(
            frame.agg(
                F.count(F.lit(1)).alias("requests"),
                F.sum(COUNT).alias("rows"),
                (F.lit(0) if once else F.sum((F.col(_LEAST) < 0).cast("int"))).alias("unequal"),
                (F.lit(0) if once else F.sum((F.col(_COPIES) > 1).cast("int"))).alias("copied"),
                # As many as the log has event dates; a set, so that one job tells everything.
                F.collect_set(F.col(DATE).cast("string")).alias("dates"),
                *(column.alias(f"null_{i}") for i, column in enumerate(null.values())),
            )
        )
        for i, column in enumerate(null):
            if row[f"null_{i}"]:
                raise InputError(
                    f"the column {column} is null in {counted(row[f'null_{i}'], 'request')}",
                    expected="a key or event time in every row",
                    fix="Filter those rows out of the log first.",
                )
        if row["unequal"]:
            raise InputError(
                f"the candidate lists differ in length in {counted(row['unequal'], 'request')}",
                expected=f"equal lengths of {', '.join(self.raw.schema.candidates)}",
                fix="Correct the log, or read only one of them.",
            )
        if row["copied"]:
            raise DuplicateRowsError(
                f"{counted(row['copied'], 'request key', 'occurs')} more than once among the request rows",
                expected="one row for each request",
                fix="Choose --on-duplicates keep-one to keep one of them.",
            )
        rows = int(row["rows"] or 0)
        if self.raw.candidates is not None:
            rows = self.raw.candidates.count()
        return InputStats(rows=rows, requests=int(row["requests"]), dates=tuple(sorted(row["dates"], key=_calendar)))

    # -- request rows -------------------------------------------------------------------------------------------

    def requests(self, keys: RequestKeys, *, strict: bool = False) -> tuple[DataFrame, Callable[[], bool]]:
        """One row per request of ``keys``, and a check to call once that frame was written.

        Args:
            keys: The requests to keep.
            strict: Tell nulls inside lists apart by place.

        Returns:
            The frame, and a function that says whether every request's columns were constant.
        """
        wide = self.spec.columns_of(Grain.REQUEST)
        date = [(self.spec.event_date_column, self.event_date())] if self.spec.assigns_event_date else []
        if self.raw.form is not Form.FLAT:
            frame = self.raw.request_rows().select("*", *(c.alias(str(n)) for n, c in date))
            return self._restrict(frame, keys), lambda: True
        fields = [f for f in self.raw.frame.schema.fields if f.name in wide]
        # Fingerprints are summed over all rows, so pointers serve only when every request is kept.
        if self.raw.located and not keys.restricted and keys.stats.requests <= self.pointer_max_requests:
            frame, check = self._pointed(keys, fields, strict)
        else:
            frame, check = self._grouped(keys, fields, strict)
        # The key frame's date, not the row's own: it is one per request even where event times are not.
        return frame.withColumnRenamed(DATE, str(date[0][0])) if date else frame.drop(DATE), check

    def _pointed(
        self, keys: RequestKeys, fields: list[T.StructField], strict: bool
    ) -> tuple[DataFrame, Callable[[], bool]]:
        seen = Observation()
        named = self.raw.located_frame().join(F.broadcast(keys.frame.select(POINTER, DATE, COUNT)), [POINTER], "left")
        kept = F.col(COUNT).isNotNull()
        # An observation copies each row it sees: by then the wide columns of all rows but the kept ones are gone.
        # A list with hidden nulls hashes like a shorter one, so the kept row tells whether its request's rows can.
        rows = named.select(
            *self.spec.request_key,
            DATE,
            COUNT,
            *(F.when(kept, F.col(f.name)).alias(f.name) for f in fields),
            fingerprint(fields, strict=strict).cast("decimal(20,0)").alias("_hash"),
            F.when(kept, F.lit(False) if strict else has_hidden_nulls(fields)).alias("_hidden"),
        )
        watched = rows.observe(
            seen,
            F.sum("_hash").alias("every"),
            F.sum(F.col("_hash") * F.col(COUNT)).alias("kept"),
            F.count(COUNT).alias("requests"),
            F.max("_hidden").alias("hidden"),
        )

        def constant() -> bool:
            if seen.get["requests"] != keys.stats.requests:
                return False  # two rows with one pointer: the caller keeps rows without pointers then
            if seen.get["hidden"]:
                return self.constant_strictly(keys)
            return bool(seen.get["every"] == seen.get["kept"])

        return watched.filter(kept).select(*self.spec.request_key, DATE, *(f.name for f in fields)), constant

    def _grouped(
        self, keys: RequestKeys, fields: list[T.StructField], strict: bool
    ) -> tuple[DataFrame, Callable[[], bool]]:
        seen = Observation()
        names = self.spec.request_key
        hashed = self._restrict(self.raw.frame, keys).select(
            *names,
            F.struct(self.event_date().alias(DATE), *(F.col(f.name) for f in fields)).alias("_wide"),
            fingerprint(fields, strict=strict).alias("_hash"),
        )
        grouped = hashed.groupBy(*names).agg(
            F.min(f"_wide.{DATE}").alias(DATE),
            F.min_by("_wide", F.struct(F.col(f"_wide.{DATE}"), F.col("_hash"))).alias("_wide"),
            (F.min("_hash") != F.max("_hash")).alias("_varies"),
        )
        wide = [F.col(f"_wide.`{f.name}`").alias(f.name) for f in fields]
        rows = grouped.select(*names, DATE, *wide, "_varies")
        hidden = F.lit(False) if strict else has_hidden_nulls(fields)
        watched = rows.observe(seen, F.max("_varies").alias("varies"), F.max(hidden).alias("hidden"))

        def constant() -> bool:
            return self.constant_strictly(keys) if seen.get["hidden"] else not seen.get["varies"]

        return watched.drop("_varies"), constant

    def _restrict(self, rows: DataFrame, keys: RequestKeys) -> DataFrame:
        names = list(self.spec.request_key)
        return rows.join(keys.frame.select(*names), names, "left_semi") if keys.restricted else rows

    def constant_strictly(self, keys: RequestKeys) -> bool:
        """Whether request columns are constant, telling nulls inside lists apart by place; a scan of its own."""
        return self.varying(keys).isEmpty()

    def varying(self, keys: RequestKeys) -> DataFrame:
        """Keys of the requests whose request-grain columns differ between rows."""
        wide = self.spec.columns_of(Grain.REQUEST)
        fields = [f for f in self.raw.frame.schema.fields if f.name in wide]
        names = self.spec.request_key
        hashed = self.raw.frame.select(*names, fingerprint(fields, strict=True).alias("_hash"))
        return hashed.groupBy(*names).agg((F.min("_hash") != F.max("_hash")).alias("v")).filter("v").select(*names)

    # -- impression rows ----------------------------------------------------------------------------------------

    def impressions(self, keys: RequestKeys | None, *, keep_one: bool = False) -> tuple[DataFrame, Callable[[], int]]:
        """Impression rows, distributed by segment and sorted; the position assigned where the log has none.

        Args:
            keys: Keep only these requests (and their dates); ``None`` keeps all.
            keep_one: Drop all but one of rows with the same key (with the same content, when the position is
                assigned).

        Returns:
            The frame, and a function that tells, once the frame was written, how many rows had the key of another.
        """
        spec = self.spec
        # Request rows have the date, whether it is assigned or the log's own; flat rows have their own.
        above = self.raw.form is not Form.FLAT and spec.event_date_column is not None
        dated = {str(spec.event_date_column): self.event_date()} if spec.assigns_event_date or above else {}
        listed = spec.assigns_position and (self.raw.form is Form.NESTED or self.raw.positions is not None)
        if keys is not None:
            rows = self.raw.impression_rows({}, spec.position_column if listed else None)
            narrow = keys.frame.select(*spec.request_key, F.col(DATE).alias(next(iter(dated), DATE)))
            rows = rows.drop(*dated).join(narrow, list(spec.request_key))
        else:
            rows = self.raw.impression_rows(dated, spec.position_column if listed else None)
        columns = [*spec.request_key, *([spec.event_date_column] if spec.event_date_column else [])]
        position = [spec.position_column] if listed else []
        own = list(spec.columns_of(Grain.IMPRESSION))
        rows = rows.select(*dict.fromkeys([*columns, *position, *own]))
        if spec.assigns_position and keep_one:
            rows = rows.dropDuplicates()
        segment = [c.alias(f"{_SEGMENT}{i}") for i, c in enumerate(self._segment())]
        names = [f"{_SEGMENT}{i}" for i in range(len(segment))]
        rows = rows.select("*", *segment).repartition(*names)
        if spec.assigns_position:
            if not listed:
                rows = rows.withColumn(spec.position_column, self._ordinal(rows, [*names, *spec.request_key]))
            else:
                rows = rows.sortWithinPartitions(*names, *spec.impression_key)
            return rows, lambda: 0
        ranked = self._ranked(rows, [*names, *spec.impression_key])
        if keep_one:
            return ranked.filter(F.col(_RANK) == 1).drop(_RANK), lambda: 0
        seen = Observation()
        watched = ranked.observe(seen, F.sum((F.col(_RANK) > 1).cast("bigint")).alias("repeated"))
        return watched.drop(_RANK), lambda: int(seen.get["repeated"] or 0)

    def _ordinal(self, rows: DataFrame, partition: list[str]) -> Column:
        """The candidate's place when its request's rows are ordered by item, then by all their content."""
        item = self.spec.schema_.item
        rest = [c for c in self.spec.columns_of(Grain.IMPRESSION) if c != item]
        order = [orderable(c, rows.schema[c].dataType) for c in (item, *rest)]
        return (F.row_number().over(Window.partitionBy(*partition).orderBy(*order)) - 1).cast("int")

    def _ranked(self, rows: DataFrame, partition: list[str]) -> DataFrame:
        """The rows numbered among those with the same key, by content; the sort is the one the table needs."""
        rest = [c for c in self.spec.columns_of(Grain.IMPRESSION) if c != self.spec.position_column]
        order = [orderable(c, rows.schema[c].dataType) for c in rest] or [F.lit(0)]
        return rows.withColumn(_RANK, F.row_number().over(Window.partitionBy(*partition).orderBy(*order)))

    # -- flat layout --------------------------------------------------------------------------------------------

    def logs(self, requests: DataFrame, impressions: DataFrame) -> DataFrame:
        """Flat rows: both sides are shuffled narrow or once per request, and joined after the shuffle."""
        segment = [c.alias(f"{_SEGMENT}{i}") for i, c in enumerate(self._segment())]
        names = [f"{_SEGMENT}{i}" for i in range(len(segment))]
        left = requests.select("*", *segment).repartition(*names)
        on = [*names, *self.spec.request_key]
        if self.spec.event_date_column:
            on.append(self.spec.event_date_column)
        return left.hint("merge").join(impressions, on)

    def in_segments(self, requests: DataFrame) -> DataFrame:
        """Request rows that lie by user bucket, sorted as they are stored; nothing is shuffled."""
        segment = [c.alias(f"{_SEGMENT}{i}") for i, c in enumerate(self._segment())]
        names = [f"{_SEGMENT}{i}" for i in range(len(segment))]
        return requests.select("*", *segment).sortWithinPartitions(*names, *self.spec.request_key).drop(*names)

    def without(self, requests: DataFrame) -> Collapse:
        """The same log less some requests (flat logs)."""
        kept = self.raw.frame.join(F.broadcast(requests), list(self.spec.request_key), "left_anti")
        return replace(self, raw=replace(self.raw, frame=kept, located=False))

    def without_pointers(self) -> Collapse:
        """The same log, collapsed without naming rows."""
        return replace(self, pointer_max_requests=-1)

    def candidates_of_all(self) -> int:
        """Candidates in all request rows of a nested log, copies of a row among them; reads their lists alone."""
        lists = F.greatest(self._candidates(), F.lit(0))
        return int(only_row(self.raw.frame.agg(F.sum(lists).alias("n")))["n"] or 0)

    def one_row_each(self) -> Collapse:
        """The same log with one row for each key of its request rows (nested and two-frame logs)."""
        if self.raw.form is Form.FLAT:
            return self
        order = fingerprint(self.raw.frame.schema.fields, strict=True)
        ranked = Window.partitionBy(*self.spec.request_key).orderBy(order)
        kept = self.raw.frame.withColumn("_rank", F.row_number().over(ranked)).filter("_rank = 1").drop("_rank")
        return replace(self, raw=replace(self.raw, frame=kept))


def _calendar(day: str) -> tuple[int, str]:
    """Sorts dates by the calendar: Spark writes years after 9999 with a sign, and texts would sort those first."""
    year, _, rest = day.rpartition("-")[0].rpartition("-")
    return int(year), f"{rest}{day[-3:]}"
