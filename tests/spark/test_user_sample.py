"""Samples of whole users drawn by Spark: the users and rows that one process would pick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from dedup_storage.cli import app
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.errors import InputError
from dedup_storage.report.draw.dataset import draw_dataset
from dedup_storage.report.draw.select import draw_flat, rows_per_request
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.parquet.dataset_files import dataset_files, folder_files
from dedup_storage.report.parquet.tables import read_totals
from dedup_storage.schema import LogSchema
from dedup_storage.sources.raw import RawLog
from dedup_storage.sources.user_draw import SparkDraw

SCHEMA = LogSchema.from_dict(
    {
        "user": "user_id", "request": "request_id", "item": "item", "event_time": "ts", "labels": "y",
        "sequences": [{"column": "hist"}], "date_grain": "none", "buckets": 4,
    }
)  # fmt: skip
USERS, REQUESTS, CANDIDATES = 60, 3, 2


def _log(texts: bool) -> pa.Table:
    """Users interleave in order of arrival; histories slide by two events."""
    rows: list[dict[str, Any]] = []
    for r in range(REQUESTS):
        for u in range(USERS):
            for c in range(CANDIDATES):
                rows.append(
                    {
                        "user_id": f"ü{u}" if texts else u, "request_id": 1000 * r + u, "ts": 3600 * r + u,
                        "hist": list(range(100 * u + 2 * r, 100 * u + 2 * r + 9)), "country": f"c{u % 3}",
                        "item": 7 * u + c, "y": c,
                    }
                )  # fmt: skip
    table = pa.Table.from_pylist(rows)
    times = pa.array(np.array(table["ts"]) * 1_000_000).cast(pa.timestamp("us", tz="UTC"))
    return table.set_column(table.column_names.index("ts"), "ts", times)


def _lay_down(table: pa.Table, folder: Path) -> Path:
    """Files whose names sort in order of arrival; a space and a percent sign are told apart from their codes."""
    folder.mkdir()
    step = -(-table.num_rows // 3)
    for i in range(3):
        pq.write_table(table.slice(i * step, step), folder / f"part {i}%20.parquet", row_group_size=50)
    return folder


def _same(ours: LogDraw, theirs: LogDraw) -> None:
    assert ours.share == theirs.share
    assert ours.schema == theirs.schema
    assert ours.requests.select(theirs.requests.column_names).to_pylist() == theirs.requests.to_pylist()
    assert ours.impressions.select(theirs.impressions.column_names).to_pylist() == theirs.impressions.to_pylist()
    assert ours.inverse.tolist() == theirs.inverse.tolist()
    assert ours.arrival.tolist() == theirs.arrival.tolist()
    assert ours.users.tolist() == theirs.users.tolist()


@pytest.mark.parametrize("texts", [False, True])
def test_a_flat_log_s_sample_is_the_one_that_a_process_draws(spark: SparkSession, tmp_path: Path, texts: bool) -> None:
    table = _log(texts)
    files = folder_files(str(_lay_down(table, tmp_path / "a log")))
    totals = read_totals(files)
    theirs = draw_flat(files, totals, SCHEMA, share=0.4)
    with SparkDraw(spark, str(tmp_path / "scratch")) as draw:
        ours = draw_flat(files, totals, SCHEMA, share=0.4, engine=draw)
        assert list((tmp_path / "scratch").iterdir())
    _same(ours, theirs)
    assert ours.requests.schema.field("ts").type == theirs.requests.schema.field("ts").type
    chosen = set(ours.requests["user_id"].to_pylist())
    assert 0 < len(chosen) < USERS
    arrived = pa.Table.from_batches(list(ours.flat(ours.arrival)), ours.flat_schema())
    expected = [row for row in table.to_pylist() if row["user_id"] in chosen]
    assert arrived.select(table.column_names).to_pylist() == expected
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("layout", ["split", "flat"])
def test_a_dataset_s_sample_is_the_one_that_a_process_draws(
    spark: SparkSession, settings: Settings, name: str, tmp_path: Path, layout: str
) -> None:
    raw = RawLog.read(spark, str(_lay_down(_log(False), tmp_path / "log")), schema=SCHEMA)
    Dataset.create(spark, settings, name, SCHEMA, raw, layout=layout).write(raw, gate=False)
    files = dataset_files(settings, name)
    totals = {t.name: read_totals(t) for t in files.tables}
    theirs = draw_dataset(files, totals, share=0.3)
    with SparkDraw(spark, str(tmp_path / "scratch")) as draw:
        ours = draw_dataset(files, totals, share=0.3, engine=draw)
    assert 0 < theirs.num_users < USERS
    _same(ours, theirs)


def test_what_spark_counts_and_refuses(spark: SparkSession, tmp_path: Path) -> None:
    files = folder_files(str(_lay_down(_log(False), tmp_path / "log")))
    with SparkDraw(spark, str(tmp_path / "scratch")) as draw:
        counted = draw.rows_per_request(files, SCHEMA)
        assert counted == pytest.approx(rows_per_request(files, SCHEMA), rel=0.1)
        with pytest.raises(InputError, match="no user falls into a share"):
            draw_flat(files, read_totals(files), SCHEMA, share=1e-12, engine=draw)
    assert not list((tmp_path / "scratch").iterdir())


def test_both_ways_estimate_alike(
    spark: SparkSession, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", settings.warehouse)
    log = _lay_down(_log(True), tmp_path / "log")
    (tmp_path / "schema.yaml").write_text(SCHEMA.to_yaml())
    found = []
    for options in ([], ["--spark", "--scratch", str(tmp_path / "scratch")]):
        arguments = ["estimate", str(log), "--schema", str(tmp_path / "schema.yaml"), "--share", "0.5", "--json", "-"]
        result = CliRunner().invoke(app, [*arguments, *options])
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout))
    assert found[0] == found[1]
