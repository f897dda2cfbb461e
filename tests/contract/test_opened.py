"""A verb opens a table's log once for each version that it asks for, and Delta reads none back for a commit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.backfill import Affected, Change
from dedup_storage.dataset.facade import Dataset
from dedup_storage.lake.delta import opened, ref
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.log import TableLog
from dedup_storage.lake.engine.delta import DeltaLog
from dedup_storage.lake.publishing import LostRaceError
from tests.contract.conftest import MakeLog
from tests.contract.upkeep import DELTA_ALONE


def reckoned(ds: Dataset) -> bool:
    """Whether what Delta notes beside the newest commit of each table is what that version holds."""
    for table in ds.metadata().tables.values():
        newest = table.load().version()
        told = json.loads((Path(table.uri) / "_delta_log" / f"{newest:020}.crc").read_text())
        live = live_files(table, newest)
        assert (told["numFiles"], told["tableSizeBytes"]) == (len(live.paths), live.size_bytes), table.name
        assert {file["path"] for file in told.get("allFiles", ())} <= {*live.paths}, table.name
    return True


@pytest.mark.long
@DELTA_ALONE
def test_each_log_is_opened_once(
    lake: Settings, ds: Dataset, make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: Counter[tuple[str, int]] = Counter()
    load: Callable[..., Any] = opened.load_delta

    def counted(uri: str, options: Any = None, version: int | None = None) -> Any:
        table = load(uri, options, version)
        looks[uri.rpartition(ds.name)[2], table.version()] += 1
        return table

    for module in (opened, ref):
        monkeypatch.setattr(module, "load_delta", counted)
    labels = ds.impressions().select(*ds.spec.impression_key, F.lit(3).alias("y"), F.lit("2024-03-01").alias("at"))
    labels = labels.filter("user_id = 1").withColumn("at", F.col("at").cast("timestamp"))
    verbs: dict[str, Callable[[], Any]] = {
        "write": lambda: ds.write(make_log([2], first_request=100), gate=False),
        "features add": lambda: ds.features.add("lengths", {"n": "size(hist)"}, gate=False),
        "features add, beside another": lambda: ds.features.add("shown", {"m": "size(hist) + 1"}, gate=False),
        "backfill": lambda: ds.backfill(
            Change(expressions={"y": "y + 10"}), Affected(users=[1, 2]), part_segments=1, gate=False
        ),
        "late-labels": lambda: ds.merge_labels(labels, "y", "at", gate=False),
        "features refresh": lambda: ds.features.refresh("lengths", gate=False),
        "maintain": lambda: ds.maintain(),
    }
    for verb, run in verbs.items():
        looks.clear()
        run()
        assert {place: times for place, times in looks.items() if times > 1} == {}, verb
    looks.clear()
    assert len(ds.versions()) == ds.metadata().current
    ds.logs()
    assert looks == {}, "what was opened by the verbs before"
    # Delta reckons a version's counts from those before it: as if it had read the log back. Files that were taken out
    # come back by a rollback, and an erasure makes one kept version after the other anew.
    assert reckoned(ds)
    ds.rollback(1)
    assert reckoned(ds)
    receipt = ds.forget_users([1])
    assert receipt.clean
    assert len(receipt.versions_rewritten) > 2
    assert reckoned(ds)


def test_of_two_commits_of_one_transaction_the_later_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where Delta's notes beside the log told that there was none yet."""
    place = str(tmp_path / "t")
    spark.sql(f"CREATE TABLE delta.`{place}` (a bigint) USING delta")
    log, rows = TableLog(spark, place), spark.range(3).withColumnRenamed("id", "a")
    first, second = log.write(rows), log.write(rows)
    look = DeltaLog._last_number

    def overtaken(late: DeltaLog, transaction: Any, app: str) -> int:
        assert transaction.snapshot().checksumOpt().get().setTransactions().isDefined()
        found = look(late, transaction, app)
        monkeypatch.undo()
        log.commit(first, app, 1, written=True)
        return found

    monkeypatch.setattr(DeltaLog, "_last_number", overtaken)
    with pytest.raises(LostRaceError):
        log.commit(second, "app", 1, written=True)
    log.commit(second, "app", 1, written=True)
    assert DeltaTable(place).to_pyarrow_table().num_rows == 3
