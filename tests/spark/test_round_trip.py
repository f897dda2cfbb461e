"""Round trips: a dataset gives back its source, row for row, whatever the log looks like."""

from __future__ import annotations

import tempfile
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.layout import Layout
from dedup_storage.schema import DateGrain, LogSchema
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthLayout, SynthParams, write_log
from tests.spark.helpers import RARELY
from tests.strategies import LogSample, examples, logs

pytestmark = pytest.mark.usefixtures("compiled")

LAYOUTS = [layout.value for layout in Layout]
# An example takes Spark seconds, so a failing one is printed as it is, without minutes of shrinking.
EXAMPLES = examples(3, shrink=False)


@dataclass(frozen=True)
class Choices:
    """How a dataset is laid down."""

    layout: str
    date_grain: DateGrain
    buckets: int


choices = st.builds(Choices, st.sampled_from(LAYOUTS), st.sampled_from(DateGrain), st.integers(1, 3))


def rows(table: pa.Table) -> Counter[str]:
    """Rows as text, which tells null, NaN, 0.0 and -0.0 apart, with their number."""
    return Counter(map(repr, table.to_pylist()))


def assert_gives_back(df: DataFrame, source: pa.Table) -> None:
    """The frame has the source's columns and rows, each as often.

    The source never went through Spark: Arrow's own rows are the independent form.
    """
    assert sorted(df.columns) == sorted(source.column_names)
    assert rows(df.toArrow().select(source.column_names).cast(source.schema)) == rows(source)


def written(spark: SparkSession, settings: Settings, raw: RawLog, choice: Choices, **options: Any) -> Dataset:
    name = f"rt_{uuid.uuid4().hex[:12]}"
    ds = Dataset.create(
        spark, settings, name, raw.schema, raw,
        layout=choice.layout, date_grain=choice.date_grain, buckets=choice.buckets,
    )  # fmt: skip
    ds.write(raw, **{"gate": False, **options})
    return ds


def saved(table: pa.Table, files: int = 2) -> str:
    """Parquet files with small row groups, as several writers would leave them."""
    place = Path(tempfile.mkdtemp())
    step = -(-max(table.num_rows, 1) // files)
    for number in range(files):
        pq.write_table(table.slice(number * step, step), place / f"part-{number}.parquet", row_group_size=3)
    return str(place)


@pytest.mark.long
@pytest.mark.parametrize("located", [pytest.param(True, id="files"), pytest.param(False, id="frame", marks=RARELY)])
@EXAMPLES
@given(sample=logs(), choice=choices)
def test_flat_logs_come_back(
    spark: SparkSession, settings: Settings, located: bool, sample: LogSample, choice: Choices
) -> None:
    raw = RawLog.read(spark, saved(sample.table), schema=sample.schema)
    if not located:
        raw = RawLog.from_frame(raw.frame, sample.schema)
    ds = written(spark, settings, raw, choice)
    assert_gives_back(ds.logs(), sample.table)
    assert ds.logs().dtypes == raw.frame.dtypes
    assert ds.requests().count() == len(sample.requests)


@pytest.mark.long
@pytest.mark.parametrize("form", ["structs", pytest.param("lists", marks=RARELY)])
@EXAMPLES
@given(sample=logs(), choice=choices)
def test_nested_logs_come_back(
    spark: SparkSession, settings: Settings, form: str, sample: LogSample, choice: Choices
) -> None:
    table, schema = sample.nested() if form == "structs" else sample.parallel()
    ds = written(spark, settings, RawLog.read(spark, saved(table), schema=schema), choice)
    assert_gives_back(ds.logs(), sample.table)


@pytest.mark.long
@EXAMPLES
@given(sample=logs(), choice=choices)
def test_two_frames_come_back(spark: SparkSession, settings: Settings, sample: LogSample, choice: Choices) -> None:
    requests, impressions, schema = sample.frames()
    raw = RawLog.read(spark, saved(requests), schema=schema, impressions=saved(impressions))
    assert_gives_back(written(spark, settings, raw, choice).logs(), sample.table)


@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "layout"),
    # Each form of a log and each layout; the other pairs by `make test-slow`.
    [
        pytest.param(source, layout, marks=[] if number % len(LAYOUTS) == place else RARELY)
        for number, source in enumerate(SynthLayout)
        for place, layout in enumerate(LAYOUTS)
    ],
)
def test_synthetic_logs_pass_the_gate_and_come_back(
    spark: SparkSession, settings: Settings, tmp_path: Path, layout: str, source: SynthLayout
) -> None:
    params = SynthParams.preset("small", string_ids=source is SynthLayout.SHUFFLED, layout=source, users=20)
    log = write_log(params, tmp_path / "log")
    flat = write_log(params.model_copy(update={"layout": SynthLayout.FLAT}), tmp_path / "flat")
    first = log.tables["requests" if source is SynthLayout.FRAMES else "log"]
    raw = RawLog.read(spark, first, schema=params.log_schema(), impressions=log.tables.get("impressions"))
    ds = written(spark, settings, raw, Choices(layout, DateGrain.DAY, 2), gate=source is SynthLayout.FLAT)
    assert_gives_back(ds.logs(), pq.read_table(flat.tables["log"]))


@pytest.mark.parametrize("layout", ["split", "flat"])
def test_requests_without_candidates(spark: SparkSession, settings: Settings, layout: str) -> None:
    schema = LogSchema(user="u", request=("r",), item="i", candidates={"shown": "i"}, columns={"c": "request"})
    table = pa.table({"u": [1, 1, 2], "r": [1, 2, 1], "c": ["a", None, "b"], "shown": [[7, 7, None], [], None]})
    ds = written(spark, settings, RawLog.read(spark, saved(table), schema=schema), Choices(layout, DateGrain.NONE, 1))
    assert_gives_back(ds.logs(), pa.table({"u": [1, 1, 1], "r": [1, 1, 1], "c": ["a"] * 3, "i": [7, 7, None]}))
    if layout == "split":
        assert ds.requests().count() == 3
