"""Synthetic logs made by Spark tasks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from dedup_storage.errors import InputError
from dedup_storage.sources.generate import generate
from dedup_storage.synth import SynthLayout, SynthParams, statistics, write_log


def digests(path: Path) -> dict[str, str]:
    files = [p for p in path.rglob("*") if p.is_file() and not p.name.endswith(".crc")]
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("layout", SynthLayout)
def test_tasks_write_the_bytes_of_one_process(spark: SparkSession, tmp_path: Path, layout: SynthLayout) -> None:
    params = SynthParams.preset("small", layout=layout, files=3, seed=4)
    alone = write_log(params, tmp_path / "alone")
    made = generate(spark, params, str(tmp_path / "spark"))
    assert digests(tmp_path / "spark") == digests(tmp_path / "alone")
    assert (made.rows, made.bytes) == (alone.rows, alone.bytes)
    again = generate(spark, params, str(tmp_path / "spark"))
    assert again == made
    assert digests(tmp_path / "spark") == digests(tmp_path / "alone")


def test_spark_reads_what_was_meant(spark: SparkSession, tmp_path: Path) -> None:
    params = SynthParams.preset("small", string_ids=True)
    made = generate(spark, params, str(tmp_path / "log"))
    log = spark.read.parquet(made.tables["log"])
    params.log_schema().require_columns(log.columns)
    assert dict(log.dtypes) == {
        "user_id": "string",
        "request_id": "string",
        "request_time": "timestamp",
        "country": "string",
        "device": "string",
        "hist_item_ids": "array<bigint>",
        "hist_times": "array<timestamp>",
        "hist_actions": "array<int>",
        "item_id": "bigint",
        "price": "double",
        "label": "int",
    }
    known = statistics(params)
    row = log.selectExpr("count(*) b", "count(distinct user_id, request_id) r", "count(distinct user_id) u").first()
    assert row is not None
    assert (row.b, row.r, row.u) == (known.impressions, known.requests, known.users)
    late = spark.read.parquet(made.tables["labels"])
    keys = ["user_id", "request_id", "item_id"]
    assert log.filter("label is null").join(late, keys, "left_semi").count() == late.count() == made.rows["labels"]


def test_another_log_in_the_place_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    generate(spark, SynthParams(users=2), str(tmp_path / "log"))
    before = digests(tmp_path)
    with pytest.raises(InputError, match="other parameters"):
        generate(spark, SynthParams(users=2, seed=1), str(tmp_path / "log"))
    assert digests(tmp_path) == before
