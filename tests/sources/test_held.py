"""Values in columns of other types: kept as they are, or said to be lost, whatever the pair of types."""

from __future__ import annotations

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dedup_storage.sources.held import held, lost
from dedup_storage.spark.types import struct_of

NAN, GREAT = "double('NaN')", "9007199254740993L"
# SQL of a value -> type -> the text of what is held, None where it is lost.
CASES: dict[tuple[str, str], str | None] = {
    ("0.7D", "int"): None,
    ("7.0D", "int"): "7",
    ("1.5BD", "int"): None,
    ("3.00BD", "int"): "3",
    ("3000000000L", "int"): None,
    ("70000", "smallint"): None,
    ("7L", "int"): "7",
    (NAN, "int"): None,
    (NAN, "float"): "NaN",
    ("0.1D", "float"): "0.1",
    ("1e300D", "float"): None,
    (GREAT, "double"): None,
    ("16777217", "float"): None,
    ("12345678.25BD", "double"): "1.234567825E7",
    ("0.125BD", "decimal(3,2)"): None,
    ("0.120BD", "decimal(3,2)"): "0.12",
    ("0.125D", "decimal(3,2)"): None,
    ("0.1D", "decimal(3,2)"): "0.10",
    ("12BD", "decimal(3,2)"): None,
    ("2", "boolean"): None,
    ("0.5D", "boolean"): None,
    ("1", "boolean"): "true",
    ("true", "int"): "1",
    ("timestamp'2024-01-02 03:00:00Z'", "date"): None,
    ("timestamp'2024-01-02 00:00:00Z'", "date"): "2024-01-02",
    ("timestamp_ntz'2024-01-02 03:00:00'", "date"): None,
    ("timestamp_ntz'2024-01-02 03:00:00'", "timestamp"): "2024-01-02 03:00:00",
    ("timestamp'2024-01-02 03:00:00.5Z'", "bigint"): None,
    ("date'2024-01-02'", "timestamp"): "2024-01-02 00:00:00",
    ("'x'", "int"): None,
    ("'0.7'", "int"): None,
    ("'7'", "int"): "7",
    ("'1.005'", "decimal(3,2)"): None,
    ("'1.000'", "decimal(3,2)"): "1.00",
    ("'1e400'", "double"): None,
    ("'-inf'", "double"): "-Infinity",
    ("'2024-01-02 03:00:00'", "date"): None,
    ("'2024-01-02'", "date"): "2024-01-02",
    ("'2024-01-02 03:00:00.1234567'", "timestamp"): None,
    ("'2024-01-02T03:00:00+01:00'", "timestamp"): "2024-01-02 02:00:00",
    ("'2024-01-02T03:00:00+01:00'", "timestamp_ntz"): None,
    ("'2024-01-02'", "timestamp_ntz"): "2024-01-02 00:00:00",
    ("7", "string"): "7",
    ("array(1.0D, 0.5D)", "array<int>"): None,
    ("array(1.0D, cast(null as double))", "array<int>"): "[1, null]",
    ("map('a', 0.5D)", "map<string,int>"): None,
    ("named_struct('a', 1L, 'b', 2.0D)", "struct<a:int,b:int>"): "{1, 2}",
    ("named_struct('a', 1L, 'b', 0.5D)", "struct<a:int,b:int>"): None,
    ("named_struct('b', 1, 'a', 2)", "struct<a:int,b:int>"): None,
    ("cast(null as double)", "int"): "null",
}


def test_what_a_type_does_not_hold_is_lost_and_all_else_is_kept(spark: SparkSession) -> None:
    session = spark.newSession()
    session.conf.set("spark.sql.session.timeZone", "UTC")
    # Values of a row, so that nothing is folded into a constant before it is looked at.
    values = session.range(1).select(
        *(F.expr(f"if(id = 0, {sql}, null)").alias(f"v{i}") for i, (sql, _) in enumerate(CASES))
    )
    columns = []
    for number, (_, ddl) in enumerate(CASES):
        kind, wanted = values.schema[f"v{number}"].dataType, struct_of({"c": ddl}).fields[0].dataType
        value = F.col(f"v{number}")
        flag = lost(value, kind, wanted)
        kept = F.coalesce(held(value, kind, wanted).cast("string"), F.lit("null"))
        columns.append(F.when(F.lit(False) if flag is None else flag, None).otherwise(kept).alias(f"v{number}"))
    row = values.select(*columns).first()
    assert row is not None
    assert dict(zip(CASES, row, strict=True)) == CASES
