"""Named samples on Iceberg: records are properties of the anchor table, a tag names each state of stored users."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.errors import StorageError
from dedup_storage.lake.engine.iceberg import load_table
from dedup_storage.lake.iceberg.metadata import Lake
from dedup_storage.lake.iceberg.snapshots import snapshot_summary
from dedup_storage.lake.sql import listed, located, quoted
from dedup_storage.layout import PROPERTY_PREFIX, ROLE_PROPERTY, DatasetSpec, TableRole
from dedup_storage.sampling.stored import SAMPLE_PREFIX

__all__ = ["IcebergSamples"]

_ATTEMPT = PROPERTY_PREFIX + "sample-attempt"
_PROPERTIES = {
    ROLE_PROPERTY: TableRole.SAMPLE.value,
    "format-version": "3",
    "write.parquet.compression-codec": "zstd",
    "write.delete.mode": "merge-on-read",
    # Rows can be staged, as erasure does.
    "write.wap.enabled": "true",
}


class IcebergSamples(ABC):
    """The part of ``IcebergFormat`` that keeps samples; see ``SampleTables``."""

    spark: SparkSession
    settings: Settings
    lake: Lake

    @abstractmethod
    def bucket(self, spec: DatasetSpec) -> Column:
        """See ``TableFormat``."""

    def record_sample(self, spec: DatasetSpec, name: str, text: str | None) -> None:
        """Set a sample's record, or remove it."""
        anchor = load_table(self.spark, f"{self.settings.catalog.name}.{spec.name}.{spec.anchor.name}")
        anchor.set_property(SAMPLE_PREFIX + name, text)

    def store_users(
        self, spec: DatasetSpec, table: str, users: DataFrame, attempt: str, order: Mapping[str, bool]
    ) -> int:
        """Put users in place of those that a table holds; gives the snapshot."""
        name, user = quoted(self.settings.catalog.name, spec.name, table), quoted(spec.schema_.user)
        fields = ", ".join(f"{quoted(f.name)} {f.dataType.simpleString()}" for f in users.schema.fields)
        self.spark.sql(
            f"CREATE TABLE IF NOT EXISTS {name} ({fields}) USING iceberg "
            f"PARTITIONED BY (bucket({spec.buckets}, {user})){located(self.lake.place_of_new(spec.name, table))} "
            f"TBLPROPERTIES ({listed(_PROPERTIES)})"
        )
        sorting = ", ".join(f"{quoted(c)} {'DESC' if falling else 'ASC'}" for c, falling in order.items())
        self.spark.sql(f"ALTER TABLE {name} WRITE DISTRIBUTED BY PARTITION LOCALLY ORDERED BY {sorting}")
        users.writeTo(name).option(f"snapshot-property.{_ATTEMPT}", attempt).overwrite(F.lit(True))
        for snapshot in reversed(self.lake.catalog.load_table((spec.name, table)).metadata.snapshots):
            if snapshot_summary(snapshot).get(_ATTEMPT) == attempt:
                return snapshot.snapshot_id
        raise StorageError(f"the users stored in {table} are gone", fix="Make the sample again.")

    def rows_of_buckets(self, spec: DatasetSpec, rows: DataFrame, buckets: Collection[int]) -> DataFrame:
        """Rows of users in some buckets, in the form that Iceberg prunes files by."""
        return rows.filter(self.bucket(spec).isin(*buckets))

    def drop_users(self, spec: DatasetSpec, table: str) -> None:
        """Remove a table of users with its files, if it is there."""
        self.spark.sql(f"DROP TABLE IF EXISTS {quoted(self.settings.catalog.name, spec.name, table)} PURGE")
