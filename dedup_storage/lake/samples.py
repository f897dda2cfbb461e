"""What named samples need of a table format."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from dedup_storage.layout import DatasetSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["SampleTables"]


class SampleTables(Protocol):
    """Records of samples, and tables of users beside the dataset's versions."""

    def record_sample(self, spec: DatasetSpec, name: str, text: str | None) -> None:
        """Set a sample's record in one commit, or remove it.

        Args:
            spec: The dataset.
            name: The sample.
            text: The record; ``None`` removes it.
        """

    def store_users(
        self, spec: DatasetSpec, table: str, users: DataFrame, attempt: str, order: Mapping[str, bool]
    ) -> int:
        """Put users in place of those that a table holds, in one commit; gives the snapshot.

        Args:
            spec: The dataset, whose user buckets partition the table.
            table: Made when it is not there.
            users: One row each, the user column among their columns.
            attempt: Unique; by it the snapshot is found.
            order: Columns that files are sorted by -> whether falling.

        Raises:
            StorageError: the snapshot is not to be found.
        """

    def rows_of_buckets(self, spec: DatasetSpec, rows: DataFrame, buckets: Collection[int]) -> DataFrame:
        """Rows of users in some buckets, files of other buckets left out where the format can."""

    def drop_users(self, spec: DatasetSpec, table: str) -> None:
        """Remove a table of users with its files, if it is there."""
