"""Where named samples live: a property of the anchor table, and for stored users a table ``sm_<name>``.

The property is set last, in one commit, and names the users' snapshot by a tag: a crash before it leaves the sample
as it was. A sample belongs to a version but makes none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.errors import StorageError, UsageError, known_names
from dedup_storage.faults import reached
from dedup_storage.layout import PROPERTY_PREFIX, ROLE_PROPERTY, TableRole
from dedup_storage.sampling.definition import Sample
from dedup_storage.sampling.stored import SAMPLE_PREFIX, USER_WEIGHT, parse_sample
from dedup_storage.schema import check_name
from dedup_storage.spark.sampling.users import STRATUM
from dedup_storage.tables.metadata import snapshot_summary, tags
from dedup_storage.tables.sql import listed, quoted

if TYPE_CHECKING:
    from dedup_storage.spark.dataset import Dataset

__all__ = ["SAMPLED", "SampleStore"]

SAMPLED = "sampled"
_ATTEMPT = PROPERTY_PREFIX + "sample-attempt"
_LONGEST_NAME = 100


class SampleStore:
    """The named samples of one dataset.

    Args:
        ds: The dataset.
    """

    def __init__(self, ds: Dataset) -> None:
        ds.tables.require("a named sample", ds.spec)
        self.ds = ds
        self._catalog = ds.settings.catalog.name

    def list(self) -> list[Sample]:
        """All samples, by name."""
        properties = self.ds.metadata().anchor.properties
        names = sorted(p.removeprefix(SAMPLE_PREFIX) for p in properties if p.startswith(SAMPLE_PREFIX))
        return [self._parse(name, properties[SAMPLE_PREFIX + name]) for name in names]

    def find(self, name: str) -> Sample | None:
        """A sample by name, ``None`` where there is none."""
        if len(check_name(name, "sample name")) > _LONGEST_NAME:
            raise UsageError("the sample's name is too long", expected=f"at most {_LONGEST_NAME} characters")
        text = self.ds.metadata().anchor.properties.get(SAMPLE_PREFIX + name)
        return None if text is None else self._parse(name, text)

    def load(self, name: str) -> Sample:
        """A sample by name.

        Raises:
            UsageError: there is none; names those that do exist.
        """
        found = self.find(name)
        if found is None:
            names = [s.name for s in self.list()]
            raise UsageError(
                f"the dataset {self.ds.name} has no sample {name}",
                expected=known_names(name, names) if names else "a stored sample; there is none",
                fix="Make it with: dedup-storage sample create.",
            )
        return found

    def _parse(self, name: str, text: str) -> Sample:
        try:
            return parse_sample(text)
        except ValidationError:
            raise UsageError(
                f"the sample {name} of {self.ds.name} cannot be read by this release",
                fix="Install a newer dedup_storage.",
            ) from None

    def save(self, sample: Sample) -> None:
        """Publish a sample's record."""
        reached("sample:before-record")
        self._anchor().updateProperties().set(SAMPLE_PREFIX + sample.name, sample.model_dump_json()).commit()

    def drop(self, name: str) -> None:
        """Forget a sample and its users.

        Raises:
            UsageError: there is none of that name.
        """
        sample = self.load(name)
        self._anchor().updateProperties().remove(SAMPLE_PREFIX + name).commit()
        reached("sample:record-dropped")
        if sample.table is not None:
            self.ds.spark.sql(f"DROP TABLE IF EXISTS {self._name(sample.table)} PURGE")

    def _anchor(self) -> Any:
        util = self.ds.spark._jvm.org.apache.iceberg.spark.Spark3Util  # type: ignore[union-attr]
        name = f"{self._catalog}.{self.ds.name}.{self.ds.spec.anchor.name}"
        return util.loadIcebergTable(self.ds.spark._jsparkSession, name)

    # -- users --------------------------------------------------------------------------------------------------
    def _name(self, table: str) -> str:
        return quoted(self._catalog, self.ds.name, table)

    def write_users(self, name: str, users: DataFrame, attempt: str) -> tuple[str, str]:
        """Store the users of a sample, all strata; gives the table and the tag of the snapshot that holds them.

        Args:
            name: The sample.
            users: Columns user, stratum, sampled, user_weight.
            attempt: Unique; names the snapshot.
        """
        table, user = f"sm_{name}", self.ds.schema.user
        kind = users.schema[user].dataType.simpleString()
        properties = {
            ROLE_PROPERTY: TableRole.SAMPLE.value,
            "format-version": "3",
            "write.parquet.compression-codec": "zstd",
            "write.delete.mode": "merge-on-read",
            # Rows can be staged, as erasure does.
            "write.wap.enabled": "true",
        }
        self.ds.spark.sql(
            f"CREATE TABLE IF NOT EXISTS {self._name(table)} ({quoted(user)} {kind}, {STRATUM} string, "
            f"{SAMPLED} boolean, {USER_WEIGHT} double) USING iceberg "
            f"PARTITIONED BY (bucket({self.ds.spec.buckets}, {quoted(user)})) TBLPROPERTIES ({listed(properties)})"
        )
        # Sampled users first: a reader skips the row groups behind them.
        self.ds.spark.sql(
            f"ALTER TABLE {self._name(table)} WRITE DISTRIBUTED BY PARTITION "
            f"LOCALLY ORDERED BY {SAMPLED} DESC, {quoted(user)}"
        )
        writer = users.select(user, STRATUM, SAMPLED, USER_WEIGHT).writeTo(self._name(table))
        writer.option(f"snapshot-property.{_ATTEMPT}", attempt).overwrite(F.lit(True))
        reached("sample:users-stored")
        loaded = self.ds.tables.metadata(self.ds.name).tables[table]
        for snapshot in reversed(loaded.metadata.snapshots):
            if snapshot_summary(snapshot).get(_ATTEMPT) == attempt:
                tag = f"sample-{attempt}"
                self.ds.tables.tag(self.ds.name, table, tag, snapshot.snapshot_id)
                return table, tag
        raise StorageError(f"the users of the sample {name} are gone", fix="Make the sample again.")

    def release(self, sample: Sample) -> None:
        """Let expiry have the users of a record that was replaced."""
        if sample.table is not None and sample.tag is not None:
            self.ds.tables.untag(self.ds.name, sample.table, sample.tag)

    def users(self, sample: Sample) -> DataFrame:
        """Stored users of a sample, sampled or not: user, stratum, sampled, user_weight.

        Raises:
            StorageError: they are gone.
        """
        table = self.ds.metadata().tables.get(str(sample.table))
        snapshot = tags(table).get(str(sample.tag)) if table is not None else None
        if snapshot is None:
            raise StorageError(f"the users of the sample {sample.name} are gone", fix="Drop it and make it again.")
        return self.ds.tables.read(self.ds.name, str(sample.table), snapshot)
