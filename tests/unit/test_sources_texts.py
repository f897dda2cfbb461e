"""Texts that are not as they should be: refused naming file and line, never rows that are merged, cut or made up."""

from __future__ import annotations

import bz2
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dedup_storage.errors import InputError, SchemaError
from dedup_storage.schema import LogSchema
from dedup_storage.sources.check import check_source
from dedup_storage.sources.declared import declared_types
from dedup_storage.sources.recognise.head import read_head
from dedup_storage.sources.source import Source, Wanted, open_source
from dedup_storage.sources.wanted import wanted_columns

KEYS = Wanted(needed=("u", "r"), texts=("u", "r"))


def _text(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def _rows(source: Source) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pa.concat_tables(source.tables()).to_pylist()
    return found


@pytest.mark.parametrize(
    "rows",
    [
        b'1,1,"Foo bar\n2,2,plain\n3,3,"Bar baz\n4,4,end\n',  # two quotes that are not closed: two rows became one
        b'1,1,"Foo bar\n2,2,plain\n',  # one: the rest of the file became a text
        b'1,1,"5" disk"\n',
    ],
)
@pytest.mark.parametrize("mark", [b",", b"\t"])
def test_quotes_that_are_not_closed_swallow_no_rows(tmp_path: Path, rows: bytes, mark: bytes) -> None:
    file = _text(tmp_path / ("a.csv" if mark == b"," else "a.tsv"), (b"u,r,t\n" + rows).replace(b",", mark))
    with pytest.raises(InputError, match=rf"line \d of {file} ends or breaks off a quoted text"):
        open_source(file, wanted=KEYS)


def test_quotes_that_are_closed_and_those_inside_texts_are_read(tmp_path: Path) -> None:
    file = _text(tmp_path / "a.csv", b'\xef\xbb\xbfu,r,t\n1,1,"a ""b"",\nc"\n2,2,5" disk\n')
    assert [row["t"] for row in _rows(open_source(file, wanted=KEYS))] == ['a "b",\nc', '5" disk']


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"u,r\r1,2\r"),
        ("a.csv", b"\n\nu,r\n1,2\n"),
        ("a.csv", b"u,r," + b"x" * 200_000 + b"\n1,2,\n"),
        ("A.CSV.GZ", gzip.compress(b"u,r\n1,2\n")),
        ("a.csv.BZ2", bz2.compress(b"u,r\n1,") + bz2.compress(b"2\n")),
    ],
    # Packed texts hold the time of packing: names of their own, the same in every process.
    ids=["carriage returns", "blank lines first", "a long header", "gzip", "bzip2 in two parts"],
)
def test_odd_but_whole_files_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    rows = _rows(open_source(_text(tmp_path / name, content), wanted=KEYS))
    assert [(row["u"], row["r"]) for row in rows] == [("1", "2")]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_what_cannot_be_unpacked_is_told_by_its_file(tmp_path: Path, suffix: str) -> None:
    lines = b"u,r\n1,2\n" if suffix == "csv" else b'{"u":"1","r":"2"}\n'
    for name, content in (("cut", gzip.compress(lines * 9)[:-9]), ("plain", lines)):
        file = _text(tmp_path / f"{name}.{suffix}.gz", content)
        with pytest.raises(InputError, match=f"the file {file} cannot be unpacked"):
            open_source(file, wanted=KEYS)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"u":1,"x":1,"x":2}', "the field x occurs twice in one object in line 2"),
        (b'{"u":1,"x":{"y":1,"y":2}}', "the field y occurs twice"),
        (b'{"u":"\\ud800"}', "the column u holds texts that are no Unicode"),
        (b'{"\\ud800":1}', r"the column \\ud800 holds texts that are no Unicode"),
        ('{"u":"é"}'.encode("latin-1"), "line 2 of .* is not written in UTF-8.*iconv"),
        # Told integers of 64 bits without a sign, Arrow cut 1.5 down to 1; beside numbers it took true for 1.
        (b'{"x":9007199254740993}\n{"x":1.5}', "the column x has values of several types"),
        (b'{"x":1.5}\n{"x":true}', "the column x has values of several types"),
        (b'{"x":[{"y":1.5}]}\n{"x":[{"y":false}]}', "the column x has values of several types"),
        # A file that says Infinity in its word has numbers all the same.
        (b'{"x":Infinity}\n{"x":1e999}', "the column x holds a number beyond every double"),
        (b'{"u":1,"x":[1e999]}', "the column x holds a number beyond every double"),
        (b'{"u":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "line 2 .* is no JSON object"),
    ],
)
def test_json_that_python_would_take_is_refused(tmp_path: Path, line: bytes, told: str) -> None:
    with pytest.raises(InputError, match=told):
        open_source(_text(tmp_path / "a.jsonl", b"\n" + line + b"\n"))


def test_json_numbers_are_one_column_whatever_part_has_none(tmp_path: Path) -> None:
    """Parts of ten thousand lines: nothing, integers, numbers with a point."""
    for nothing, some in (("null", "{}"), ("[]", "[{}]"), ("null", '{{"y":{}}}')):
        values = [nothing] * 10_000 + [some.format(1)] * 10_000 + [some.format(0.5)]
        file = _text(tmp_path / "a.jsonl", "".join(f'{{"x":{value}}}\n' for value in values).encode())
        assert [row["x"] for row in _rows(open_source(file))] == list(map(json.loads, values))


def test_json_says_infinity_in_its_own_word(tmp_path: Path) -> None:
    assert _rows(open_source(_text(tmp_path / "a.jsonl", b'{"x":Infinity}\n'))) == [{"x": float("inf")}]


def test_declared_types_of_texts_hold_every_value(tmp_path: Path) -> None:
    kinds = {"x": pa.float64(), "at": pa.timestamp("us", "UTC")}
    wanted = Wanted(texts=("u",), types=kinds)
    content = b"u,x,at\n1,inf,2024-06-01 10:00:00.5\n2,1,2024-06-01T12:00:00+02:00\n3,,2024-06-01\n"
    rows = _rows(open_source(_text(tmp_path / "a.csv", content), wanted=wanted))
    assert [row["at"].isoformat() for row in rows] == [
        "2024-06-01T10:00:00.500000+00:00", "2024-06-01T10:00:00+00:00", "2024-06-01T00:00:00+00:00",
    ]  # fmt: skip
    with pytest.raises(InputError, match="1 texts of the column x"):
        open_source(_text(tmp_path / "b.csv", b"u,x,at\n1,1e999,\n"), wanted=wanted)


@pytest.mark.parametrize("kind", ["array<bigint>", "map<string,int>", "struct<a:int>"])
def test_declared_types_that_texts_do_not_tell_are_refused(tmp_path: Path, kind: str) -> None:
    wanted = Wanted(types=declared_types({"x": kind}))
    with pytest.raises(InputError, match=r"types says .* of the column x.*under forms"):
        open_source(_text(tmp_path / "a.csv", b'u,x\n1,"[1]"\n'), wanted=wanted)


@pytest.mark.parametrize("text", ["007", "+7", "1.005"])
def test_texts_of_decimals_are_in_their_plain_form(tmp_path: Path, text: str) -> None:
    wanted = Wanted(types=declared_types({"x": "decimal(9,2)"}))
    with pytest.raises(InputError, match="texts of the column x are no values of its type"):
        open_source(_text(tmp_path / "a.csv", f"u,x\n1,{text}\n".encode()), wanted=wanted)


def test_numbers_with_a_point_that_no_double_holds_stay_texts(tmp_path: Path) -> None:
    """Ids that went through a column with a point: 9007199254740993.0 became 9007199254740992.0."""
    for text in ("9007199254740993.0", "12345678901234567891e0"):
        source = open_source(_text(tmp_path / "a.csv", f"u,x\n1,{text}\n2,1.5\n".encode()))
        assert [row["x"] for row in _rows(source)] == [text, "1.5"]


@pytest.mark.parametrize("kind", ["variant", "void", "interval day", "array<interval>", "geometry(4326)"])
def test_types_that_no_file_has_are_not_ignored(tmp_path: Path, kind: str) -> None:
    schema = LogSchema.from_dict({"user": "u", "request": ["r"], "item": "i", "types": {"x": kind}})
    with pytest.raises(SchemaError, match=rf"types says {re.escape(kind)} of the column x.*Leave x out"):
        wanted_columns(schema)
    # A dataset that was described so before is read on.
    source = open_source(_text(tmp_path / "a.csv", b"u,r,i,x\n1,a,5,7\n"), wanted=wanted_columns(schema, {}))
    with pytest.raises(SchemaError, match=rf"types says {re.escape(kind)} of the column x.*Leave x out"):
        check_source(source, schema)


@pytest.mark.parametrize("kind", ["varchar(3)", "CHAR(3)", "array<varchar(3)>", "struct<a:int,b:char(2)>", "varchar"])
def test_lengths_of_texts_that_nothing_would_hold_to_are_refused(kind: str) -> None:
    """A text of four letters was taken for varchar(3), and one of two for char(3) was not filled up."""
    schema = LogSchema.from_dict({"user": "u", "request": ["r"], "item": "i", "types": {"x": kind}})
    with pytest.raises(SchemaError, match=r"types says .* of the column x, and (var)?char is no type.*Write string"):
        wanted_columns(schema)
    # A column of that name is none of the type.
    wanted_columns(schema.model_copy(update={"types": {"x": "struct<varchar:int,interval:int>"}}))


def test_a_header_with_a_number_among_its_names_is_no_row(tmp_path: Path) -> None:
    """``infer-schema`` took it for values, and the schema that it wrote made a row of it."""
    assert read_head(_text(tmp_path / "a.csv", b"user_id,item_id,2020\n1,5,7\n")).header == ()
    assert read_head(_text(tmp_path / "b.csv", b"17,a,2020\n1,b,7\n")).header == ("column_1", "column_2", "column_3")
