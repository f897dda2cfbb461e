"""Parts of a conversion: rows of one date part, or of one user bucket, and what they sum to."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.convert.summary import PartCheck
from dedup_storage.dataset.handle import Cut
from dedup_storage.dataset.lists import source_typed
from dedup_storage.layout import DatasetSpec, Layout, TableRole
from dedup_storage.schema import DateGrain, Grain
from dedup_storage.sources.raw import RawLog
from dedup_storage.spark.rows import only_row
from dedup_storage.spark.types import fingerprint

__all__ = ["Part", "PartRows", "find_parts", "summed"]

_PATTERNS = {DateGrain.DAY: "yyyy-MM-dd", DateGrain.MONTH: "yyyy-MM"}


@dataclass(frozen=True)
class Part:
    """Rows that are converted together.

    Attributes:
        name: For run ids and reports.
        grain: Of the date part; ``NONE`` for a user bucket.
        value: The date part (``2024-01-31``, ``2024-01``) or the bucket's number.
    """

    name: str
    grain: DateGrain
    value: str

    def condition(self, spec: DatasetSpec, bucket: Column) -> Column:
        """Whether a stored row belongs to it."""
        if self.grain is DateGrain.NONE:
            return bucket == F.lit(int(self.value))
        column = F.col(str(spec.event_date_column))
        if self.grain is DateGrain.DAY:
            return column == F.lit(self.value).cast("date")
        first = F.lit(f"{self.value}-01").cast("date")
        return (column >= first) & (column < F.add_months(first, 1))


@dataclass(frozen=True)
class PartRows:
    """The rows of one version of a dataset, part by part.

    Attributes:
        cut: The version.
        bucket: The user bucket that parts are told apart by.
    """

    cut: Cut
    bucket: Column

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's description."""
        return self.cut.spec

    def stored(self, role: TableRole, part: Part | None) -> DataFrame:
        """Rows of one of the log's own tables as they are stored."""
        rows = self.cut.log_rows(role)
        return rows if part is None else rows.filter(part.condition(self.spec, self.bucket))

    def raw(self, part: Part | None = None) -> RawLog:
        """A part as a log, or all of it: flat rows of flat layout, else requests and impressions."""
        spec, schema = self.spec, self.spec.schema_.of_standard_rows().model_copy(update={"candidates": {}})
        # Assigned by a rule or by the order of a list, from rows that backfills may have changed since: they are kept.
        assigned = spec.position_column if spec.assigns_position else None
        positions = (assigned,) if assigned else ()
        if spec.layout is Layout.FLAT:
            rows = source_typed(spec, self.stored(TableRole.LOGS, part), (*spec.source_columns, *positions))
            return RawLog.from_frame(rows, schema, positions=assigned)
        keys = spec.request_key
        requests = source_typed(spec, self.stored(TableRole.REQUESTS, part), (*keys, *spec.columns_of(Grain.REQUEST)))
        own = (*keys, *positions, *spec.columns_of(Grain.IMPRESSION))
        impressions = source_typed(spec, self.stored(TableRole.IMPRESSIONS, part), own)
        return RawLog.from_frame(requests, schema, impressions, positions=assigned)

    def check(self, part: Part) -> PartCheck:
        """Counts and checksums of a part, the same for the same rows in any layout and format."""
        spec = self.spec
        own = tuple(sorted(spec.columns_of(Grain.REQUEST)))
        if spec.layout.divided:
            requests = self.stored(TableRole.REQUESTS, part)
            impressions = self.stored(TableRole.IMPRESSIONS, part)
        else:
            impressions = self.stored(TableRole.LOGS, part)
            first = [F.first(c).alias(c) for c in own]
            grouped = impressions.groupBy(*spec.request_key)
            requests = grouped.agg(*first) if first else impressions.select(*spec.request_key).distinct()
        below = tuple(sorted(spec.columns_of(Grain.IMPRESSION)))
        shown = dict.fromkeys((*spec.impression_key, *below))
        r, r_sum = summed(source_typed(spec, requests, (*spec.request_key, *own)))
        b, b_sum = summed(source_typed(spec, impressions, shown))
        return PartCheck(part=part.name, requests=r, impressions=b, request_sum=r_sum, impression_sum=b_sum)


def summed(rows: DataFrame) -> tuple[int, int]:
    """Rows, and the sum of 64-bit hashes of all values of each: the same for the same rows in any order."""
    total = F.sum(fingerprint(rows.schema.fields, strict=True).cast("decimal(38,0)"))
    row = only_row(rows.agg(F.count(F.lit(1)).alias("n"), total.alias("sum")))
    return int(row["n"]), int(row["sum"] or 0)


def find_parts(rows: PartRows, buckets: int) -> list[Part]:
    """The date parts of a dataset in order; where there is but one, its user buckets.

    Args:
        rows: The source.
        buckets: User buckets that the source's rows are told apart by.
    """
    spec, role = rows.spec, rows.spec.anchor.role
    grain = spec.date_grain
    if spec.event_date_column is not None and grain is not DateGrain.NONE:
        text = F.date_format(F.col(spec.event_date_column), _PATTERNS[grain])
        dates = only_row(rows.stored(role, None).agg(F.collect_set(text).alias("dates")))["dates"]
        if len(dates) > 1:
            return [Part(date, grain, date) for date in sorted(dates)]
    width = len(str(buckets - 1))
    return [Part(f"bucket-{b:0{width}}", DateGrain.NONE, str(b)) for b in range(buckets)]
