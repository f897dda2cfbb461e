"""Logs that went wrong once, each found by drawing odd logs: by name, and whether they are taken."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.sources.odd_logs import OddLog, plain_parquet

__all__ = ["FAULTS"]


def _parquet(*values: pa.Array, beside: dict[str, pa.Array] | None = None, **options: Any) -> OddLog:
    """A file for each array, a column ``a`` of it beside the keys."""
    files = {}
    for number, array in enumerate(values):
        keys = {c: pa.array(range(len(array))) for c in ("user_id", "item_id")}
        keys["request_id"] = pa.array([f"{number}-{row}" for row in range(len(array))])
        stream = pa.BufferOutputStream()
        pq.write_table(pa.table({**keys, "a": array, **(beside or {})}), stream, **options)
        files[f"{number}.parquet"] = bytes(stream.getvalue())
    return OddLog("parquet", files, tuple(map(plain_parquet, files.values())), str(values))


def _csv(*fields: str) -> OddLog:
    rows = [{"user_id": "1", "request_id": str(n), "item_id": "2", "a": field} for n, field in enumerate(fields)]
    text = "".join(",".join(line) + "\n" for line in [list(rows[0]), *(list(row.values()) for row in rows)])
    return OddLog("csv", {"log.csv": text.encode()}, (rows,), text)


def _json(*parts: list[Any]) -> OddLog:
    rows = tuple(
        [{"user_id": 1, "request_id": f"{number}-{n}", "item_id": 2, "a": value} for n, value in enumerate(part)]
        for number, part in enumerate(parts)
    )
    files = {f"{n}.jsonl": "\n".join(map(json.dumps, part)).encode() for n, part in enumerate(rows)}
    return OddLog("json", files, rows, str(rows))


_SECOND = dt.timedelta(seconds=1)
# Name -> (log, whether it is taken).
FAULTS: dict[str, tuple[OddLog, bool]] = {
    "a missing list of a fixed size, whose slot went to the list before it": (
        _parquet(pa.array([[1, 2], None, [3, 4], None], pa.list_(pa.int64(), 2))), True),
    "the same inside a map": (
        _parquet(pa.array([[("k", [1, 2]), ("l", None)], None], pa.map_(pa.string(), pa.list_(pa.int64(), 2)))), True),
    "durations of two units, which became one column of numbers": (
        _parquet(pa.array([_SECOND], pa.duration("s")), pa.array([_SECOND], pa.duration("us"))), False),
    "a duration beside numbers": (_parquet(pa.array([_SECOND], pa.duration("s")), pa.array([7])), False),
    "durations of one unit": (_parquet(pa.array([_SECOND, None], pa.duration("us"))), True),
    "something without a type inside a struct, which only Spark refused": (
        _parquet(pa.array([{"x": None, "y": 1}], pa.struct([("x", pa.null()), ("y", pa.int64())]))), False),
    "names that differ in case alone, which only Spark refused": (
        _parquet(pa.array([1]), beside={"A": pa.array([2])}), False),
    "dictionaries inside lists, in several row groups": (
        _parquet(pa.array([["a"], ["b"], None], pa.list_(pa.dictionary(pa.int32(), pa.string()))), row_group_size=1),
        True),
    "minus zero in CSV, which became 0": (_csv("1", "-0"), True),
    "a number in CSV that no double holds, which became infinite": (_csv("1e999", "0.5"), True),
    "objects without a field, at which the writer broke": (_json([{}, None]), False),
    "keys of 8 and 16 bits, of which only Spark refused the users": (
        _parquet(pa.array([1]), beside={"user_id": pa.array([7], pa.int8()), "item_id": pa.array([7], pa.uint8())}),
        True),
    "an encoding that Spark's reader lacks": (
        _parquet(pa.array([0.5, None]), use_byte_stream_split=["a"], use_dictionary=False), True),
    "a codec that Spark's reader lacks": (_parquet(pa.array([1, 2]), pa.array([3]), compression="brotli"), True),
    "numbers with and without a point inside lists and objects": (
        _json([[{"x": 1}]], [[{"x": 0.5, "y": "t"}], [{"y": None}]]), True),
}  # fmt: skip
