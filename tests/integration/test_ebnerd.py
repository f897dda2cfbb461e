"""EB-NeRD, a public news log, in every layout: request-grained input with real nulls, lists and 8-bit integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.schema import LogSchema
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import RARELY

HISTORY = ("impression_time_fixed", "scroll_percentage_fixed", "article_id_fixed", "read_time_fixed")
SCHEMA = LogSchema.from_dict(
    {
        "user": "user_id",
        "request": "impression_id",
        "item": "inview_id",
        "event_time": "impression_time",
        "candidates": {"article_ids_inview": "inview_id"},
        "sequences": [
            {"column": c, "group": "history", "max_length": 700, "times": c == "impression_time_fixed"} for c in HISTORY
        ],
        "date_grain": "day",
        "buckets": 2,
    }
)


@pytest.fixture(scope="session")
def source(ebnerd: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, pa.Table]:
    """Behaviours with each user's history, as Parquet files; and the same as flat rows, made by Arrow."""
    behaviours = pq.read_table(ebnerd / "behaviors.parquet").to_pylist()
    history = {r["user_id"]: {c: r[c] for c in HISTORY} for r in pq.read_table(ebnerd / "history.parquet").to_pylist()}
    rows = [{**b, **history.get(b["user_id"], dict.fromkeys(HISTORY))} for b in behaviours]
    types = pq.read_schema(ebnerd / "behaviors.parquet"), pq.read_schema(ebnerd / "history.parquet")
    # Spark reads unsigned 32-bit integers as bigint.
    fields = [pa.field(f.name, pa.int64() if f.type == pa.uint32() else f.type) for f in types[0]]
    fields += [f for f in types[1] if f.name in HISTORY]
    place = tmp_path_factory.mktemp("ebnerd")
    nested = pa.Table.from_pylist(rows, pa.schema(fields))
    for part in range(3):
        pq.write_table(nested.slice(part * 350, 350), place / f"part-{part}.parquet", row_group_size=100)
    shown = nested["article_ids_inview"].combine_chunks()
    flat = nested.drop_columns(["article_ids_inview"]).take(pc.list_parent_indices(shown))
    return str(place), flat.append_column("inview_id", pc.list_flatten(shown).cast(pa.int32()))


def assert_gives_back(df: DataFrame, flat: pa.Table) -> None:
    """Same columns, same rows, each as often; nulls, lengths and bits are compared.

    Rows of one request with the same item are equal in all else, so two orders of them are one.
    """
    assert sorted(df.columns) == sorted(flat.column_names)
    made = df.toArrow().select(flat.column_names).cast(flat.schema)
    order = [("user_id", "ascending"), ("impression_id", "ascending"), ("inview_id", "ascending")]
    for column, found, wanted in zip(flat.column_names, made.sort_by(order), flat.sort_by(order), strict=True):
        for one, other in zip(exact(found.combine_chunks()), exact(wanted.combine_chunks()), strict=True):
            assert one.equals(other), column


def exact(column: pa.Array) -> Iterator[pa.Array]:
    """Arrays that are equal where all values are equal bit for bit, which is not asked of floats otherwise."""
    yield column.is_null()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        yield column.value_lengths()
        yield from exact(column.flatten())
    elif pa.types.is_floating(column.type):
        yield column.fill_null(0).view({32: pa.int32(), 64: pa.int64()}[column.type.bit_width])
    else:
        yield column


@pytest.mark.long
@pytest.mark.parametrize(
    ("layout", "table_format"),
    [("split", "iceberg"), ("flat", "iceberg"), ("user", "iceberg"), pytest.param("user", "delta", marks=RARELY)],
)
def test_ebnerd_comes_back(
    spark: SparkSession,
    settings: Settings,
    name: str,
    source: tuple[str, pa.Table],
    layout: str,
    table_format: str,
) -> None:
    path, flat = source
    raw = RawLog.read(spark, path, schema=SCHEMA)
    lake = settings.model_copy(update={"format": table_format})
    ds = Dataset.create(spark, lake, name, SCHEMA, raw, layout=layout)
    summary = ds.write(raw, run_id="ebnerd")
    assert (summary.requests, summary.impressions) == (1_046, 10_848)
    assert summary.gate == "passed"
    assert ds.requests().count() == 1_046
    assert_gives_back(ds.logs(), flat)
    # The source's 8-bit integers, which Iceberg has not, come back too.
    assert dict(ds.logs().dtypes)["device_type"] == "tinyint"
    again = ds.write(raw, run_id="ebnerd")
    assert (again.already_published, again.version, ds.impressions().count()) == (True, summary.version, 10_848)


@pytest.mark.long
def test_ebnerd_flat_input_finds_the_grains(
    spark: SparkSession, settings: Settings, name: str, source: tuple[str, pa.Table], tmp_path: Path
) -> None:
    flat = source[1]
    order = pa.array(sorted(range(flat.num_rows), key=lambda row: row * 7919 % flat.num_rows))
    pq.write_table(flat.take(order), tmp_path / "flat.parquet", row_group_size=500)
    schema = LogSchema.from_dict({k: v for k, v in SCHEMA.to_dict().items() if k != "candidates"})
    raw = RawLog.read(spark, str(tmp_path / "flat.parquet"), schema=schema)
    ds = Dataset.create(spark, settings, name, schema, raw)
    ds.write(raw)
    assert ds.metadata().tables["impressions"].schema().column_names == [
        "user_id", "impression_id", "event_date", "position", "inview_id",
    ]  # fmt: skip
    assert_gives_back(ds.logs(), flat)
