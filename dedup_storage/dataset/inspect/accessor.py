"""Files, segments and history of a dataset as ``Dataset.inspect`` gives them, from metadata alone."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import reduce

from pydantic import BaseModel, ConfigDict
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Handle
from dedup_storage.spark.errors import translated

__all__ = ["HistoryEntry", "Inspect"]


class HistoryEntry(BaseModel):
    """One published version and its place in the line of versions.

    Attributes:
        version: 1, 2, 3, …
        created: When, UTC; ``None`` where that is no longer known.
        job, run_id: What published it.
        parent: The version it was made from, 0 for the first; for a rollback, the version it restores.
        is_ancestor: Whether the newest version was made from it, or is it; a rollback leaves versions out.
        added_columns: Columns of the log that it brought.
        filled_columns: Columns that its log did not have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    created: datetime | None
    job: str
    run_id: str
    parent: int
    is_ancestor: bool
    added_columns: tuple[str, ...] = ()
    filled_columns: tuple[str, ...] = ()


class Inspect:
    """What a dataset is made of; no data file is opened.

    Args:
        handle: The dataset.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def files(self, version: int | None = None) -> DataFrame:
        """The files of a version, one row each.

        Args:
            version: ``None`` takes the newest.

        Returns:
            ``table``; ``date`` (string) and ``bucket``, the file's segment; ``content``: 0 for data, 1 or more for
            deletes; ``file_path``; ``rows`` and ``bytes``; ``low`` and ``high``, its least and its greatest user.

        Raises:
            VersionNotFoundError: there is no such version.
        """
        with translated():
            cut = self._handle.cut(version)
            listed = (
                self._handle.tables.files(cut.meta, table, snapshot_id).select(F.lit(table).alias("table"), "*")
                for table, snapshot_id in cut.snapshots.items()
            )
            return reduce(DataFrame.unionByName, listed)

    def segments(self, version: int | None = None) -> DataFrame:
        """The segments of a version, one row for each table, date part and user bucket.

        Args:
            version: ``None`` takes the newest.

        Returns:
            ``table``, ``date``, ``bucket``; ``files`` and ``bytes`` of its data; ``rows`` that are read, and
            ``hidden_rows``, which files of deletes hide.

        Raises:
            VersionNotFoundError: there is no such version.
        """
        data = F.col("content") == 0
        hidden = F.coalesce(F.sum(F.when(~data, F.col("rows"))), F.lit(0))
        stored = F.coalesce(F.sum(F.when(data, F.col("rows"))), F.lit(0))
        segments = self.files(version).groupBy("table", "date", "bucket")
        return segments.agg(
            F.count_if(data).alias("files"),
            F.coalesce(F.sum(F.when(data, F.col("bytes"))), F.lit(0)).alias("bytes"),
            (stored - hidden).alias("rows"),
            hidden.alias("hidden_rows"),
        ).orderBy("table", "date", "bucket")

    def history(self) -> list[HistoryEntry]:
        """The published versions, oldest first, and which of them today's content comes from."""
        meta = self._handle.metadata()
        line = set(meta.lineage(meta.current))
        return [
            HistoryEntry(
                version=info.version,
                created=datetime.fromtimestamp(info.created_ms / 1000, UTC) if info.created_ms else None,
                job=info.job,
                run_id=info.run_id,
                parent=info.parent,
                is_ancestor=info.version in line,
                added_columns=_names(info.summary.get("added-columns")),
                filled_columns=_names(info.summary.get("filled-columns")),
            )
            for info in map(meta.info, meta.version_numbers)
        ]


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()
