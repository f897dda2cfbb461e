"""How far segments have decayed, measured from the tables' metadata: no data file is opened for it.

A fresh segment is one run of files sorted by user. Later runs leave files whose user ranges overlap, deletion vectors
that hide rows, and small files.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from dedup_storage.lake.segments import Segment

__all__ = ["UNREFERENCED", "Limits", "SegmentDecay", "measure_decay"]

UNREFERENCED = "unreferenced events"


class Limits(BaseModel):
    """From where on a segment counts as decayed; one limit reached is enough.

    Attributes:
        hidden_share: Rows hidden by deletion vectors, of all stored rows.
        overlapping_files: Files that begin before an earlier one ends, in the order of users.
        files: Data files, where they would fit into half as many of the target size.
        target_file_bytes: What a file should hold at most.
        unreferenced_share: In layout ``user`` events that no request of a kept version refers to, of all rows.
        runs_share: In layout ``user`` runs that another order of users' events would spare, of all runs of a user and
            of all runs of a user bucket: from there on they are laid anew.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_share: float = Field(default=0.02, ge=0, le=1)
    overlapping_files: int = Field(default=1, ge=1)
    files: int = Field(default=4, ge=2)
    target_file_bytes: int = Field(default=512 * 1024**2, ge=1)
    unreferenced_share: float = Field(default=0.02, ge=0, le=1)
    runs_share: float = Field(default=0.5, gt=0, le=1)


class SegmentDecay(BaseModel):
    """One segment of one table as it is.

    Attributes:
        table, date, bucket: Which.
        files, rows, bytes: Of its data files; ``rows`` counts hidden ones too.
        hidden_rows: Rows that deletion vectors hide.
        deletion_vectors: Their number.
        overlapping_files: See ``Limits``.
        unreferenced_rows: Events, or features of them, that no request of a kept version refers to.
        reasons: Limits that are reached; none for a healthy segment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    date: str
    bucket: int
    files: int
    rows: int
    bytes: int
    hidden_rows: int
    deletion_vectors: int
    overlapping_files: int
    unreferenced_rows: int = 0
    reasons: tuple[str, ...] = ()

    @property
    def segment(self) -> Segment:
        """Its name."""
        return Segment(self.date, self.bucket)


def measure_decay(
    files: DataFrame, table: str, limits: Limits, unreferenced: Mapping[Segment, int] | None = None
) -> list[SegmentDecay]:
    """Measure every segment of a table.

    Args:
        files: Of ``TableFormat.files``.
        table: Its name.
        limits: What counts as decayed.
        unreferenced: Segment -> events that nothing refers to; they are not in the metadata.
    """
    known = unreferenced or {}
    data = files.filter("content = 0")
    order = Window.partitionBy("date", "bucket").orderBy("low", "high", "file_path")
    before = F.max("high").over(order.rowsBetween(Window.unboundedPreceding, -1))
    data = data.withColumn("overlaps", F.coalesce(F.col("low") < before, F.lit(False)))
    stored = data.groupBy("date", "bucket").agg(
        F.count(F.lit(1)).alias("files"),
        F.sum("rows").alias("rows"),
        F.sum("bytes").alias("bytes"),
        F.count_if("overlaps").alias("overlapping"),
    )
    hidden = (
        files.filter("content <> 0")
        .groupBy("date", "bucket")
        .agg(F.sum("rows").alias("hidden"), F.count(F.lit(1)).alias("vectors"))
    )
    # One row for each segment, as many as the table's metadata lists.
    rows = stored.join(hidden, ["date", "bucket"], "left").orderBy("date", "bucket").collect()
    return [
        _judged(
            SegmentDecay(
                table=table,
                date=row["date"],
                bucket=row["bucket"],
                files=row["files"],
                rows=row["rows"],
                bytes=row["bytes"],
                hidden_rows=row["hidden"] or 0,
                deletion_vectors=row["vectors"] or 0,
                overlapping_files=row["overlapping"],
                unreferenced_rows=known.get(Segment(row["date"], row["bucket"]), 0),
            ),
            limits,
        )
        for row in rows
    ]


def _judged(segment: SegmentDecay, limits: Limits) -> SegmentDecay:
    reasons = []
    if segment.hidden_rows and segment.hidden_rows >= limits.hidden_share * segment.rows:
        reasons.append("hidden rows")
    if segment.overlapping_files >= limits.overlapping_files:
        reasons.append("overlapping files")
    needed = -(-segment.bytes // limits.target_file_bytes)
    if segment.files >= limits.files and segment.files >= 2 * needed:
        reasons.append("small files")
    if segment.unreferenced_rows and segment.unreferenced_rows >= limits.unreferenced_share * segment.rows:
        reasons.append(UNREFERENCED)
    return segment.model_copy(update={"reasons": tuple(reasons)})
