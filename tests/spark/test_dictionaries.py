"""The dictionaries that a new dataset starts with, decided from the log it is created for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.report.parquet.pages import read_pages
from dedup_storage.report.parquet.tables import read_totals
from dedup_storage.report.tune.apply import apply_properties
from dedup_storage.schema import LogSchema
from dedup_storage.sources.glance import dictionary_columns
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import ICEBERG_DAILY

DICTIONARY = "write.parquet.dict-encoding-enabled.column."
TYPES = (
    "user_id bigint, request_id bigint, ids array<bigint>, kinds array<bigint>, words array<string>, "
    "pairs array<struct<a:int>>, item bigint, y int"
)
SCHEMA = LogSchema.from_dict(
    {
        "user": "user_id", "request": "request_id", "item": "item", "labels": "y", "date_grain": "none", "buckets": 2,
        "sequences": [{"column": c} for c in ("ids", "kinds", "words", "pairs")],
        "columns": dict.fromkeys(("ids", "kinds", "words", "pairs"), "request"),
    }
)  # fmt: skip


def _rows(users: int, length: int = 300) -> list[tuple[Any, ...]]:
    """Three requests of two candidates; lists slide by 7 events: ids of 10,000, kinds of 4, words of 3."""
    random = np.random.default_rng(1)
    rows = []
    for user in range(users):
        ids, kinds = random.integers(0, 10_000, length + 30), random.choice(4, length + 30, p=[0.7, 0.1, 0.1, 0.1])
        words = random.choice(np.array(["buy", "see", None], dtype=object), length + 30)
        for r in range(3):
            at = slice(7 * r, 7 * r + length)
            lists = ids[at].tolist(), kinds[at].tolist(), words[at].tolist(), [(1,)] * 3
            rows += [(user, 10 * user + r, *lists, c, c) for c in range(2)]
    return rows


@pytest.mark.parametrize("layout", ["split", "flat"])
def test_a_new_dataset_s_dictionaries_and_what_they_save(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path, layout: str
) -> None:
    spark.createDataFrame(_rows(40), TYPES).coalesce(1).write.parquet(str(tmp_path / "log"))
    raw = RawLog.read(spark, str(tmp_path / "log"), schema=SCHEMA)
    made = {}
    for dataset, changes in ((name, {}), (f"{name}_off", {f"{DICTIONARY}kinds.element": "false"})):
        created = Dataset.create(spark, settings, dataset, SCHEMA, raw, layout=layout)
        anchor = created.spec.anchor.name
        if not changes:
            properties = created.metadata().tables[anchor].properties
            switches = {k.removeprefix(DICTIONARY): v for k, v in properties.items() if k.startswith(DICTIONARY)}
            assert switches == {
                "ids.element": "false", "kinds.element": "true", "words.element": "true", "pairs.element": "false",
            }  # fmt: skip
        apply_properties(spark, settings, dataset, anchor, changes)
        created.write(raw, gate=False)
        made[dataset] = dataset_files(settings, dataset).tables[0]
    pages = read_pages(made[name].files)
    assert not pages["ids"].dictionaries
    assert set(pages["ids"].encodings) == {"PLAIN"}
    assert pages["kinds"].dictionaries == len(made[name].files)
    assert "PLAIN" not in pages["kinds"].encodings
    ours, without = (read_totals(made[d]).columns["kinds"].stored_bytes for d in (name, f"{name}_off"))
    assert ours < without / 2


def test_any_form_of_a_log_is_looked_at(spark: SparkSession, tmp_path: Path) -> None:
    frame = spark.createDataFrame(_rows(30), TYPES)
    requests = frame.drop("item", "y").dropDuplicates(["user_id", "request_id"])
    frames = RawLog.from_frame(requests, SCHEMA, frame.select("user_id", "request_id", "item", "y"))
    assert dictionary_columns(frames, SCHEMA) == {"kinds", "words"}
    # The first of three files comes from users without a history.
    for number, empty in enumerate((True, False, False)):
        part = frame.withColumn("kinds", F.array().cast("array<bigint>")) if empty else frame
        part.coalesce(1).write.parquet(str(tmp_path / str(number)))
        written = next((tmp_path / str(number)).glob("*.parquet"))
        (tmp_path / "a log").mkdir(exist_ok=True)
        written.rename(tmp_path / "a log" / f"{number} %41.parquet")
    located = RawLog.read(spark, str(tmp_path / "a log"), schema=SCHEMA)
    assert located.located
    assert dictionary_columns(located, SCHEMA) == {"kinds", "words"}
    assert dictionary_columns(RawLog.from_frame(frame.limit(0), SCHEMA), SCHEMA) == frozenset()


@pytest.mark.long
@pytest.mark.parametrize("format", ICEBERG_DAILY)
def test_layout_user_and_its_conversions(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path, format: str
) -> None:
    """Positions and runs have none, events as they were looked at; a conversion keeps what there is."""
    lake = settings.model_copy(update={"format": format})
    spark.createDataFrame(_rows(40), TYPES).coalesce(1).write.parquet(str(tmp_path / "log"))
    raw = RawLog.read(spark, str(tmp_path / "log"), schema=SCHEMA)
    made = Dataset.create(spark, lake, name, SCHEMA, raw, layout="user")
    made.write(raw, gate=False)
    again, back = f"{name}_again", f"{name}_back"
    made.convert(again, format=format)
    made.convert(back, format=format, layout="split")
    for dataset in (name, again):
        stored = {table.name: read_pages(table.files) for table in dataset_files(lake, dataset).tables}
        assert not stored["events_ids"]["position"].dictionaries
        assert stored["events_kinds"]["kinds"].dictionaries
        assert not stored["requests"]["ids_runs"].dictionaries
    lists = {table.name: read_pages(table.files) for table in dataset_files(lake, back).tables}["requests"]
    assert lists["kinds"].dictionaries
    assert not lists["ids"].dictionaries
    keys = [*SCHEMA.request_key, "item"]
    assert all(
        Dataset.open(spark, lake, dataset).logs().sort(keys).collect() == made.logs().sort(keys).collect()
        for dataset in (again, back)
    )
