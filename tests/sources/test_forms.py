"""Columns in the forms of published logs: Spark and Arrow read them as plain Python does, or refuse them alike."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from dedup_storage.errors import InputError, SchemaError
from dedup_storage.schema import LogSchema
from dedup_storage.sources.forms.arrow import standard_table
from dedup_storage.sources.forms.kinds import standard_kinds
from dedup_storage.sources.forms.spark import standard_frame
from dedup_storage.sources.frames import arrow_types, source_frame
from dedup_storage.sources.source import open_source
from dedup_storage.spark.errors import translated
from tests.sources.forms_cases import REFUSED, form_schema, form_table, refused, standard_rows


def test_spark_understands_every_form_as_arrow_and_plain_python_do(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(form_table(), tmp_path / "log.parquet")
    schema, source = form_schema(), open_source(str(tmp_path))
    frame = standard_frame(source_frame(spark, source), schema)
    kinds = standard_kinds({f.name: f.type for f in source.schema}, schema)
    assert arrow_types(frame.schema) == kinds
    by_spark = frame.orderBy("request_id").toArrow()
    by_arrow = standard_table(pa.concat_tables(source.tables()), schema)
    assert by_spark.column_names == by_arrow.column_names == list(kinds)
    for name, values in standard_rows().items():
        assert by_arrow[name].to_pylist() == values, name
        assert by_spark[name].to_pylist() == values, name


def test_forms_need_neither_a_shuffle_nor_python(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(1, 1, "N1-0 N2-1")], "user_id int, request_id int, shown string")
    pairs = {"pairs": "-", "fields": {"item_id": "string", "label": "int"}}
    schema = LogSchema.from_dict(
        {"user": "user_id", "request": "request_id", "item": "item_id", "forms": {"shown": pairs}}
        | {"candidates": {"shown": "*"}}
    )
    from dedup_storage.sources.raw import RawLog

    rows = RawLog.from_frame(frame, schema).impression_rows({}, "position")
    assert [tuple(r) for r in rows.collect()] == [(1, 1, 0, "N1", 0), (1, 1, 1, "N2", 1)]
    with pytest.raises(SchemaError, match=r"forms names the column shown.*request_id"):
        RawLog.from_frame(frame.drop("shown"), schema)
    plan = rows._jdf.queryExecution().executedPlan().toString()
    assert not [word for word in ("Exchange", "Python", "Arrow") if word in plan]


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_form_does_not_tell_is_refused_alike(spark: SparkSession, name: str) -> None:
    table, schema, said = refused(name)
    with pytest.raises(InputError, match=said) as by_arrow:
        standard_table(table, schema)
    frame = standard_frame(spark.createDataFrame(table), schema)
    with pytest.raises(InputError) as by_spark, translated():
        frame.collect()
    assert str(by_spark.value) == str(by_arrow.value)
