"""Named samples on Delta: records and the names of stored users' states are events, since no table is all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.errors import StorageError
from dedup_storage.lake.delta.layout import bucket_column, bucket_expression, kept_forever
from dedup_storage.lake.delta.log import DELTA_WRITES, TableLog
from dedup_storage.lake.delta.metadata import DeltaLake
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.folders import delete_folder
from dedup_storage.lake.sql import listed, quoted
from dedup_storage.layout import ROLE_PROPERTY, DatasetSpec, TableRole

__all__ = ["DeltaSamples"]


class DeltaSamples:
    """The part of ``DeltaFormat`` that keeps samples; see ``SampleTables``."""

    spark: SparkSession
    settings: Settings
    lake: DeltaLake

    def record_sample(self, spec: DatasetSpec, name: str, text: str | None) -> None:
        """Set a sample's record, or remove it."""
        log = self.lake.log(spec.name)
        if text is None:
            log.drop_sample(name)
        else:
            log.record_sample(name, text)

    def store_users(
        self, spec: DatasetSpec, table: str, users: DataFrame, attempt: str, order: Mapping[str, bool]
    ) -> int:
        """Put users in place of those that a table holds; gives the Delta version."""
        uri = self.lake.uri(spec.name, table)
        bucket = bucket_column(spec)
        fields = [f"{quoted(f.name)} {f.dataType.simpleString()}" for f in users.schema.fields]
        fields.append(f"{quoted(bucket)} int GENERATED ALWAYS AS ({bucket_expression(spec)})")
        properties = {ROLE_PROPERTY: TableRole.SAMPLE.value, **kept_forever()}
        self.spark.sql(
            f"CREATE TABLE IF NOT EXISTS delta.`{uri.replace('`', '``')}` ({', '.join(fields)}) USING delta "
            f"PARTITIONED BY ({quoted(bucket)}) TBLPROPERTIES ({listed(properties)})"
        )
        # It may have been made when the dataset had other buckets.
        log = TableLog(self.spark, uri)
        for metadata in log.generated_anew({bucket: bucket_expression(spec)}):
            log.set_metadata(metadata)
        rows = move_to(run_session(self.spark), users)
        for key, value in DELTA_WRITES.items():
            rows.sparkSession.conf.set(key, value)
        rows = rows.withColumn(bucket, F.expr(bucket_expression(spec)).cast("int")).hint("rebalance", bucket)
        sorting = [F.col(c).desc() if falling else F.col(c).asc() for c, falling in order.items()]
        writer = rows.sortWithinPartitions(bucket, *sorting).write.format("delta").mode("overwrite")
        writer.option("userMetadata", attempt).save(uri)
        for commit in self.lake.ref(spec.name, table).load().history():
            if commit.get("userMetadata") == attempt:
                return int(commit["version"])
        raise StorageError(f"the users stored in {table} are gone", fix="Make the sample again.")

    def rows_of_buckets(self, spec: DatasetSpec, rows: DataFrame, buckets: Collection[int]) -> DataFrame:
        """Rows of users in some buckets.

        Delta does not know what its generated column means for the user. The column itself, which readers leave out, is
        found below plain reads, and leaves files out; above a join the user is hashed.
        """
        try:
            return rows.filter(F.col(bucket_column(spec)).isin(*buckets))
        except AnalysisException:
            return rows.filter(F.expr(bucket_expression(spec)).isin(*buckets))

    def drop_users(self, spec: DatasetSpec, table: str) -> None:
        """Remove a table of users with its files, if it is there."""
        log = self.lake.log(spec.name)
        for name, tag in log.load().tags:
            if name == table:
                log.untag(table, tag)
        delete_folder(self.lake.uri(spec.name, table), self.settings.catalog.properties)

    def tag(self, dataset: str, table: str, name: str, snapshot_id: int) -> None:
        """Name a Delta version so that expiry keeps its files; naming it twice is once."""
        self.lake.log(dataset).tag(table, name, snapshot_id)

    def untag(self, dataset: str, table: str, name: str) -> None:
        """Remove a Delta version's name, if it is there."""
        self.lake.log(dataset).untag(table, name)
