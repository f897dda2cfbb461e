"""Which values stand for exactly one key."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import types as T

from dedup_storage.keys import KeyKind, plain_key, plain_keys
from dedup_storage.sources.exact import is_key_type
from dedup_storage.sources.named import read_ids


@pytest.mark.parametrize(
    ("value", "integer", "text"),
    [
        (42, 42, "42"),
        (np.int32(42), 42, "42"),
        (Decimal(42), 42, None),
        ("42", 42, "42"),
        ("-7", -7, "-7"),
        (" 42 ", 42, " 42 "),
        ("0042", None, "0042"),
        ("-0", None, "-0"),
        ("4e1", None, "4e1"),
        ("42.0", None, "42.0"),
        ("", None, ""),
        (42.0, None, None),
        (np.float64(42), None, None),
        (Decimal("42.5"), None, None),
        (float("nan"), None, None),
        (True, None, None),
        (np.bool_(True), None, None),
        (dt.date(2024, 1, 1), None, None),
        (dt.datetime(2024, 1, 1), None, None),
        (b"42", None, None),
        (None, None, None),
        (2**63 - 1, 2**63 - 1, str(2**63 - 1)),
        (2**63, None, str(2**63)),
    ],
)
def test_a_value_names_one_key_or_none(value: object, integer: int | None, text: str | None) -> None:
    assert plain_key(value, KeyKind.INTEGER) == integer
    assert plain_key(value, KeyKind.TEXT) == text
    if integer is not None:
        assert plain_key(value, KeyKind.INTEGER, bits=32) == (integer if abs(integer) < 2**31 else None)


def test_what_is_no_key_is_counted_and_placed(tmp_path: Path) -> None:
    assert plain_keys([1, 2.5, "3", True, None, "x"], KeyKind.INTEGER) == ([1, 3], "4 of 6: numbers 2, 4, 5 and 1 more")
    listed = tmp_path / "ids.txt"
    listed.write_bytes(b"\xef\xbb\xbf7\r\n\r\n 8\n0042\nx\n")
    assert plain_keys(read_ids(listed), KeyKind.INTEGER) == ([7, 8], "2 of 4: lines 4, 5")


@pytest.mark.parametrize(
    ("stored", "fit"),
    [
        (T.LongType(), {"int", "bigint", "string", "decimal(20,0)"}),
        (T.StringType(), {"int", "bigint", "string"}),
        (T.DecimalType(20, 0), {"int", "bigint", "string", "decimal(20,0)"}),
        (T.DecimalType(10, 2), {"int", "bigint", "string"}),
        (T.DateType(), {"string", "date"}),
        (T.TimestampType(), {"timestamp", "timestamp_ntz"}),
    ],
)
def test_a_type_tells_keys_apart_or_not(spark: object, stored: T.DataType, fit: set[str]) -> None:
    kinds = ["int", "bigint", "string", "decimal(20,0)", "float", "double", "boolean", "date", "timestamp",
             "timestamp_ntz", "binary"]  # fmt: skip
    assert {k for k in kinds if is_key_type(T.DataType.fromDDL(k), stored)} == fit
