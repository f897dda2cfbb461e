"""What another tool did to a table's properties, columns and rows by its own means: undone or told, not taken over."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import ForeignCommitError, StorageError, UsageError
from dedup_storage.lake.upkeep import Policy
from dedup_storage.sources.raw import RawLog
from tests.contract.conftest import MakeLog
from tests.spark.helpers import RARELY, flat_schema, same_rows

pytestmark = pytest.mark.crash

ICEBERG = pytest.mark.parametrize("table_format", ["iceberg"], indirect=True)
DELTA = pytest.mark.parametrize("table_format", ["delta"], indirect=True)


def other_tool(ds: Dataset, table: str, change: str) -> None:
    """Alter a table by SQL."""
    place = f"{ds.settings.catalog.name}.{ds.name}.{table}"
    if ds.settings.format == "delta":
        place = f"delta.`{ds.settings.warehouse_uri}/{ds.name}/{table}`"
    ds.spark.sql(f"ALTER TABLE {place} {change}")


@ICEBERG
def test_rows_are_staged_where_another_tool_lets_them_be_appended(ds: Dataset, make_log: MakeLog) -> None:
    for table in ("requests", "impressions"):
        other_tool(ds, table, "UNSET TBLPROPERTIES ('write.wap.enabled')")
    with pytest.raises(UsageError):
        ds.write(make_log([1]), gate=False)
    # Nothing of what was refused is on main.
    assert ds.write(make_log([2], 100), gate=False).version == 2
    same_rows(ds.logs(), make_log([1]).frame.union(make_log([2], 100).frame))
    assert ds.check().passed


@ICEBERG
def test_an_erasure_refuses_a_column_that_was_renamed(ds: Dataset, make_log: MakeLog) -> None:
    other_tool(ds, "requests", "RENAME COLUMN country TO land")
    with pytest.raises(UsageError, match=r"column country of .*requests was renamed .* RENAME COLUMN land TO country"):
        ds.forget_users([1], "gone")
    same_rows(ds.logs(), make_log([1]).frame)
    other_tool(ds, "requests", "RENAME COLUMN land TO country")
    assert ds.forget_users([1], "gone").clean
    same_rows(ds.logs(), make_log([1]).frame.filter("user_id <> 1"))


@ICEBERG
@pytest.mark.parametrize("again", [pytest.param(False, marks=RARELY), True])
def test_an_erasure_refuses_a_column_that_was_dropped(ds: Dataset, make_log: MakeLog, again: bool) -> None:
    """Versions made anew have today's columns: all users' values would be gone. Added again, it is another column."""
    other_tool(ds, "requests", "DROP COLUMN country")
    if again:
        other_tool(ds, "requests", "ADD COLUMN country string")
    told = r"column country of .*requests was dropped by another tool, .*; got versions that would lose its .*: v1\."
    for dry_run in (True, False):
        with pytest.raises(UsageError, match=told):
            ds.forget_users([1], "gone", dry_run=dry_run)
    same_rows(ds.logs(), make_log([1]).frame)
    # The way out that it names.
    assert ds.convert(f"{ds.name}_b").impressions == 15
    other = Dataset.open(ds.spark, ds.settings, f"{ds.name}_b")
    assert other.forget_users([1]).clean
    same_rows(other.logs(), make_log([1]).frame.filter("user_id <> 1"))


@DELTA
def test_an_erasure_refuses_a_column_that_was_dropped_after_mapping(ds: Dataset, make_log: MakeLog) -> None:
    """Kept versions of before the mapping name no column otherwise, and have one more than the table."""
    mapping = "'delta.columnMapping.mode' = 'name', 'delta.minReaderVersion' = '2', 'delta.minWriterVersion' = '5'"
    other_tool(ds, "requests", f"SET TBLPROPERTIES ({mapping})")
    other_tool(ds, "requests", "DROP COLUMN country")
    with pytest.raises(UsageError, match=r"column country of .*requests was renamed or dropped"):
        ds.forget_users([1], "gone")
    same_rows(ds.logs(1), make_log([1]).frame)


@DELTA
def test_an_erasure_keeps_columns_that_files_name_otherwise(ds: Dataset, make_log: MakeLog) -> None:
    """With column mapping, columns that came later have names of their own in files."""
    mapping = "'delta.columnMapping.mode' = 'name', 'delta.minReaderVersion' = '2', 'delta.minWriterVersion' = '5'"
    for table in ("requests", "impressions"):
        other_tool(ds, table, f"SET TBLPROPERTIES ({mapping})")
    frame = make_log([2], 100).frame.withColumn("device", F.concat(F.lit("d-"), "user_id"))
    schema = flat_schema(columns={"country": "request", "device": "request"})
    ds.write(RawLog.from_frame(frame, schema), add_columns="all", gate=False)
    before = ds.logs().filter("user_id <> 1").localCheckpoint()
    assert before.filter("device is not null").count() == 12
    assert ds.forget_users([1]).clean
    same_rows(ds.logs(), before)
    other_tool(ds, "requests", "RENAME COLUMN device TO machine")
    with pytest.raises(UsageError, match=r"column device of .*requests was renamed or dropped"):
        ds.forget_users([2])
    same_rows(ds.logs(2).filter("user_id <> 1"), before)


@DELTA
def test_a_rollback_brings_back_rows_that_another_tool_hid(ds: Dataset, make_log: MakeLog, spark: SparkSession) -> None:
    other_tool(ds, "impressions", "SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    place = f"delta.`{ds.settings.warehouse_uri}/{ds.name}/impressions`"
    spark.sql(f"DELETE FROM {place} WHERE user_id = 2 AND position = 0")
    with pytest.raises(ForeignCommitError, match="versions rollback"):
        ds.write(make_log([2], 100), gate=False)
    ds.rollback(1)
    same_rows(ds.logs(), make_log([1]).frame)
    assert spark.sql(f"SELECT * FROM {place}").count() == 15


@ICEBERG
def test_files_that_another_tool_lets_nobody_remove(ds: Dataset, make_log: MakeLog) -> None:
    ds.write(make_log([1], 100), mode="replace", gate=False)
    for table in ("requests", "impressions"):
        other_tool(ds, table, "SET TBLPROPERTIES ('gc.enabled' = 'false')")
    told = "files may not be removed: its property gc.enabled is false"
    with pytest.raises(StorageError, match=told):
        ds.maintain(policy=Policy(keep_versions=1, keep_days=0), compact=False, orphans=False)
    with pytest.raises(StorageError, match=told):
        ds.forget_users([1], "gone")
    for table in ("requests", "impressions"):
        other_tool(ds, table, "UNSET TBLPROPERTIES ('gc.enabled')")
    assert ds.forget_users([1], "gone").clean
    same_rows(ds.logs(), make_log([1], 100).frame.filter("user_id <> 1"))


@DELTA
def test_a_table_that_takes_appends_alone(ds: Dataset, make_log: MakeLog) -> None:
    other_tool(ds, "impressions", "SET TBLPROPERTIES ('delta.appendOnly' = 'true')")
    for change in (
        lambda: ds.write(make_log([1], 100), mode="replace", gate=False),
        lambda: ds.rollback(1),
        lambda: ds.forget_users([1]),
    ):
        with pytest.raises(UsageError, match=r"impressions takes appends alone: another tool set delta\.appendOnly"):
            change()
        assert ds.publication.status().pending is None
    assert ds.write(make_log([2], 200), gate=False).version == 2
