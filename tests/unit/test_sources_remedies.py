"""What a refusal says is to be done can be done in the form that the log has: JSON and CSV have no casts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup_storage.errors import DedupStorageError
from dedup_storage.schema import LogSchema
from dedup_storage.sources.check import check_source
from dedup_storage.sources.source import Wanted, open_source
from dedup_storage.sources.wanted import wanted_columns

ROLES: dict[str, Any] = {"user": "u", "request": "r", "item": "i"}


def _refusal(place: Path, values: list[Any], form: str, more: dict[str, Any]) -> str:
    rows = [{"u": "a", "r": "1", "i": "5", "x": value} for value in values]
    path = place / f"log.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text("u,r,i,x\n" + "".join(f"a,1,5,{value}\n" for value in values))
    schema = LogSchema.from_dict({**ROLES, **more})
    with pytest.raises(DedupStorageError) as caught:
        check_source(open_source(str(path), wanted=wanted_columns(schema)), schema)
    return str(caught.value)


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.5, 2]])
@pytest.mark.parametrize(
    ("form", "more", "remedy"),
    [
        ("jsonl", {"position": "x"}, "Write x as a whole number, without a point and without quotes (5, not 5.0)"),
        ("jsonl", {"types": {"x": "bigint"}}, "Write x as a whole number, without a point"),
        ("jsonl", {"types": {"x": "string"}}, 'Write x in quotes ("5") in every line'),
        ("jsonl", {"types": {"x": "decimal(9,2)"}}, "JSON has no decimal128(9, 2): keep x a number or a text"),
        ("jsonl", {"user": "x"}, "Write x as a whole number without a point (5, not 5.0), or as a text in quotes"),
        ("csv", {"position": "x"}, "Write values of type int64 in their plain form (5, not 5.0) into x in every row"),
        ("csv", {"types": {"x": "bigint"}}, "Correct the log, or keep x a text"),
        ("parquet", {"position": "x"}, "Cast x in the log to int64"),
        ("parquet", {"types": {"x": "bigint"}}, "Cast x in the log to int64, or correct types"),
    ],
)
def test_numbers_with_a_point_where_integers_belong(
    tmp_path: Path, values: list[float], form: str, more: dict[str, Any], remedy: str
) -> None:
    told = _refusal(tmp_path, values, form, more)
    assert remedy in told
    assert ("Cast" in told) is (form == "parquet")


@pytest.mark.parametrize(
    ("values", "more", "remedy"),
    [
        (["1", "2"], {"types": {"x": "bigint"}}, "Write x as a whole number, without a point and without quotes"),
        (["1 2"], {"sequences": [{"column": "x"}]}, "Say under forms how the texts of x are read (split, json)"),
        ([7], {"sequences": [{"column": "x"}]}, "Write x as a list ([1, 2]) in every line"),
        (["a"], {"types": {"x": "boolean"}}, "Write x as true or false, without quotes"),
        # The remedies that are named work: the test below takes them.
        ([[], None], {}, "Leave x out of the log, or say its type in the schema: types: {x: array<string>}"),
        ([[{"a": None, "b": 1}]], {}, "types: {x: array<struct<a:string,b:bigint>>}"),
        ([None], {}, "Leave x out of the log, or say its type in the schema: types: {x: string}"),
    ],
)
def test_other_values_of_json_lines(tmp_path: Path, values: list[Any], more: dict[str, Any], remedy: str) -> None:
    told = _refusal(tmp_path, values, "jsonl", more)
    assert remedy in told
    assert "Cast" not in told


def test_types_that_a_refusal_names_are_taken(tmp_path: Path) -> None:
    for value, kind in (([], "array<string>"), ([{"a": None, "b": 1}], "array<struct<a:string,b:bigint>>")):
        path = tmp_path / "log.jsonl"
        path.write_text(json.dumps({"u": "a", "r": "1", "i": "5", "x": value}) + "\n")
        schema = LogSchema.from_dict({**ROLES, "types": {"x": kind}})
        source = open_source(str(path), wanted=wanted_columns(schema))
        check_source(source, schema)
        assert pa.concat_tables(source.tables())["x"].to_pylist() == [value]


@pytest.mark.parametrize(
    ("name", "text", "remedy"),
    [
        ("a.json", '[{"u": 1}]\n', r"jq -c '\.\[\]' LOG > rows\.jsonl"),
        ("b.json", '{\n"u": 1\n}\n', r"jq -c '\.' LOG > rows\.jsonl"),
        ("c.jsonl", '{"u": 1}\n[2]\n', r"Correct the file"),
        ("d.csv", " u , r \n1,2\n", "Take the blanks around the names out of the header"),
    ],
)
def test_files_that_are_written_a_little_otherwise(tmp_path: Path, name: str, text: str, remedy: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DedupStorageError, match=remedy):
        open_source(str(tmp_path / name), wanted=Wanted(needed=("u",)))


def test_files_of_json_lines_that_differ_are_to_be_written_alike(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"u": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"u": "1"}\n')
    with pytest.raises(DedupStorageError, match=r"a\.jsonl.*b\.jsonl\. Write u alike in every line: as numbers, or as"):
        open_source(str(tmp_path))
