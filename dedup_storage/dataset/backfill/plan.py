"""What a backfill will do, before it does it: segments, files, rows, bytes, and how each segment is rewritten.

Costs are in bytes. A byte written counts twice a byte read (it is encoded, compressed and stored). Rows hidden by a
deletion vector are decoded by every reader until ``maintain`` restores the segment, so merge-on-read also pays for
``READS_BEFORE_MAINTENANCE`` decodings of the hidden rows. All strategies read the segment's files once.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from pyspark.sql import functions as F

from dedup_storage.dataset.backfill.affected import FILE, AffectedRows
from dedup_storage.dataset.backfill.request import Strategy
from dedup_storage.dataset.backfill.summary import Asked
from dedup_storage.errors import UsageError
from dedup_storage.lake.engine.sessions import move_to
from dedup_storage.lake.segments import Segment

__all__ = ["BackfillPlan", "SegmentPlan", "Untouched", "make_plan"]

WRITE_WEIGHT = 2
READS_BEFORE_MAINTENANCE = 10
# A Parquet file of a few rows is mostly footer; a deletion vector of a few rows is a Puffin file of half a kilobyte.
SMALL_FILE_BYTES = 3_000
DELETION_VECTOR_BYTES = 600


class SegmentPlan(BaseModel):
    """One segment.

    Attributes:
        date, bucket: Which.
        files, rows, bytes: What the table holds there, deletion vectors left out of ``files`` and ``bytes``.
        affected_files, affected_rows: What the backfill touches of it.
        strategy: How it is rewritten.
        read_bytes, write_bytes: Estimated from file sizes.
        fixed_bytes: Part of ``write_bytes`` that does not depend on the number of rows.
        cost: Estimated, in bytes (see the module).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: str
    bucket: int
    files: int
    rows: int
    bytes: int
    affected_files: int
    affected_rows: int
    strategy: Strategy
    read_bytes: int
    write_bytes: int
    fixed_bytes: int
    cost: int

    @property
    def segment(self) -> Segment:
        """Its name."""
        return Segment(self.date, self.bucket)


class Untouched(BaseModel):
    """A table of which nothing is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    files: int
    bytes: int


class BackfillPlan(Asked):
    """A whole backfill.

    Attributes:
        dataset, table, columns: What is rewritten.
        base: The version it starts from.
        published: The version in which the run is published already, so that nothing would be done; else ``None``.
        resumed_segments: Segments that an earlier attempt of the run has finished.
        affected_rows: Rows with new values.
        segments_total: Segments of the table; those not listed are untouched.
        table_bytes: Stored bytes of the table's data files.
        read_bytes, write_bytes, fixed_bytes: Sums over the segments.
        strategies: Strategy -> number of segments.
        untouched: The other tables.
        segments: One entry for each affected segment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    table: str
    columns: tuple[str, ...]
    base: int
    published: int | None = None
    resumed_segments: int = 0
    affected_rows: int
    segments_total: int
    table_bytes: int
    read_bytes: int
    write_bytes: int
    fixed_bytes: int
    strategies: dict[str, int]
    untouched: tuple[Untouched, ...]
    segments: tuple[SegmentPlan, ...]

    @property
    def rows_written(self) -> int:
        """Rows of the new files, roughly for copy-on-write, whose files may hold fewer rows than their segment."""
        return sum(s.affected_rows if s.strategy is Strategy.MERGE_ON_READ else s.rows for s in self.segments)


def make_plan(rows: AffectedRows, strategy: Strategy | None = None, *, asked: bool = True) -> BackfillPlan:
    """Plan a backfill from metadata and one scan of the key columns of the affected rows.

    Args:
        rows: The affected rows.
        strategy: The same for every segment; ``None`` takes the cheapest for each.
        asked: Whether to count what was asked for by its key and is not there.

    Raises:
        UsageError: the table format does not have the strategy.
    """
    spec, target, tables = rows.spec, rows.target, rows.tables
    choices = [s for s in Strategy if tables.marks_rows or s is not Strategy.MERGE_ON_READ]
    if strategy is not None and strategy not in choices:
        raise UsageError(
            f"{strategy.value} is not available on {tables.name.title()} tables: it would hide rows by deletion "
            "vectors, which reading without Spark does not apply",
            expected=" or ".join(choices),
            fix="Leave the strategy out to take the cheapest for each segment.",
        )
    files = move_to(rows.session, tables.files(rows.cut.meta, target.table, target.snapshot_id))
    data = F.col("content") == 0
    stored = files.groupBy("date", "bucket").agg(
        F.count_if(data).alias("files"),
        F.sum(F.when(data, F.col("rows"))).alias("all_rows"),
        F.coalesce(F.sum(F.when(~data, F.col("rows"))), F.lit(0)).alias("hidden"),
        F.sum(F.when(data, F.col("bytes"))).alias("bytes"),
    )
    sizes = files.filter(data).select(F.col("file_path").alias(FILE), F.col("bytes").alias("file_bytes"))
    affected = (
        rows.touched.join(F.broadcast(sizes), FILE, "left")
        .groupBy("date", "bucket")
        .agg(
            F.count(F.lit(1)).alias("affected_files"),
            F.sum("n").alias("affected_rows"),
            F.sum("file_bytes").alias("affected_bytes"),
        )
    )
    # One row for each segment: as many as the table has partitions, which its metadata lists as well.
    listed = stored.join(F.broadcast(affected), ["date", "bucket"], "left").collect()
    segments = tuple(
        sorted(
            (
                _segment(
                    row["date"],
                    row["bucket"],
                    files=row["files"],
                    rows=row["all_rows"] - row["hidden"],
                    stored_rows=row["all_rows"],
                    bytes_=row["bytes"],
                    affected_files=row["affected_files"],
                    affected_rows=row["affected_rows"],
                    affected_bytes=row["affected_bytes"],
                    choices=choices if strategy is None else [strategy],
                )
                for row in listed
                if row["affected_rows"]
            ),
            key=lambda s: (s.date, s.bucket),
        )
    )
    strategies: dict[str, int] = {}
    for segment in segments:
        strategies[segment.strategy.value] = strategies.get(segment.strategy.value, 0) + 1
    return BackfillPlan(
        **(rows.asked() if asked else {}),
        dataset=spec.name,
        table=target.table,
        columns=rows.change.names,
        base=rows.cut.version,
        affected_rows=sum(s.affected_rows for s in segments),
        segments_total=len(listed),
        table_bytes=sum(row["bytes"] or 0 for row in listed),
        read_bytes=sum(s.read_bytes for s in segments),
        write_bytes=sum(s.write_bytes for s in segments),
        fixed_bytes=sum(s.fixed_bytes for s in segments),
        strategies=strategies,
        untouched=_untouched(rows),
        segments=segments,
    )


def _segment(
    date: str,
    bucket: int,
    *,
    files: int,
    rows: int,
    stored_rows: int,
    bytes_: int,
    affected_files: int,
    affected_rows: int,
    affected_bytes: int,
    choices: Sequence[Strategy],
) -> SegmentPlan:
    share = affected_rows / stored_rows if stored_rows else 0.0
    fixed = SMALL_FILE_BYTES + affected_files * DELETION_VECTOR_BYTES
    live = rows / stored_rows if stored_rows else 1.0
    writes = {
        Strategy.OVERWRITE: int(bytes_ * live),
        Strategy.COPY_ON_WRITE: affected_bytes,
        Strategy.MERGE_ON_READ: int(bytes_ * share) + fixed,
    }
    reads = dict.fromkeys(Strategy, bytes_) | {Strategy.COPY_ON_WRITE: affected_bytes}
    cost = {s: reads[s] + WRITE_WEIGHT * writes[s] for s in Strategy}
    cost[Strategy.MERGE_ON_READ] += int(READS_BEFORE_MAINTENANCE * bytes_ * share)
    # Equal costs fall to the one that restores the most order.
    chosen = min(choices, key=lambda s: cost[s])
    return SegmentPlan(
        date=date,
        bucket=bucket,
        files=files,
        rows=rows,
        bytes=bytes_,
        affected_files=affected_files,
        affected_rows=affected_rows,
        strategy=chosen,
        read_bytes=reads[chosen],
        write_bytes=writes[chosen],
        fixed_bytes=fixed if chosen is Strategy.MERGE_ON_READ else 0,
        cost=cost[chosen],
    )


def _untouched(rows: AffectedRows) -> tuple[Untouched, ...]:
    others: list[Untouched] = []
    for name, snapshot_id in rows.cut.snapshots.items():
        if name != rows.target.table:
            totals = rows.cut.meta.totals(name, snapshot_id)
            others.append(Untouched(table=name, files=totals.files, bytes=totals.bytes))
    return tuple(others)
