"""Sources of rows without Spark: what an address is, one schema over its files, the rows in it, and refusals."""

from __future__ import annotations

import datetime as dt
import gzip
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup_storage.config import Settings
from dedup_storage.errors import InputError, SchemaError, UsageError
from dedup_storage.layout import TableRole
from dedup_storage.report.parquet.tables import TableFiles
from dedup_storage.schema import LogSchema
from dedup_storage.sources.address import Kind, find_address
from dedup_storage.sources.check import check_source
from dedup_storage.sources.declared import declared_types
from dedup_storage.sources.named import read_ids
from dedup_storage.sources.source import Source, Wanted, open_source
from dedup_storage.sources.wanted import wanted_columns


def _put(path: Path, table: pa.Table) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return str(path)


def _text(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def _rows(source: Source) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pa.concat_tables(source.tables()).to_pylist()
    return found


def test_all_columns_of_all_files_in_types_that_hold_every_value(tmp_path: Path) -> None:
    first = {
        "x": pa.array([1], pa.int32()),
        "list": pa.array([[1, None]], pa.list_(pa.int32())),
        "struct": [{"a": 1}],
        "empty": pa.nulls(1),
        "hollow": pa.array([[]], pa.list_(pa.null())),
        "word": pa.array(["w"]).dictionary_encode(),
        "__index_level_0__": [3],
    }
    second = {
        "x": [2**40],
        "list": pa.array([None], pa.large_list(pa.int64())),
        "struct": [{"b": "q"}],
        "empty": ["t"],
        "hollow": [["z"]],
        "word": pa.array(["v"], pa.string_view()),
        "price": [1.5],
    }
    _put(tmp_path / "a.parquet", pa.table(first))
    _put(tmp_path / "b.parquet", pa.table(second))
    source = open_source(str(tmp_path))
    assert _rows(source) == [
        {"x": 1, "list": [1, None], "struct": {"a": 1, "b": None}, "empty": None, "hollow": [], "word": "w",
         "price": None},
        {"x": 2**40, "list": None, "struct": {"a": None, "b": "q"}, "empty": "t", "hollow": ["z"], "word": "v",
         "price": 1.5},
    ]  # fmt: skip
    assert source.notes == ("the column __index_level_0__ is the index of pandas and was left out",)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([1]), pa.array(["1"])),
        (pa.array([1]), pa.array([1.0])),
        (pa.array([[1]]), pa.array([["1"]])),
        (pa.array([True]), pa.array([1])),
        (pa.array([1], pa.uint64()), pa.array([1])),
        (pa.array([dt.date(2024, 1, 1)]), pa.array([dt.datetime(2024, 1, 1)])),
    ],
)
def test_types_that_cannot_be_one_name_column_types_and_files(
    tmp_path: Path, first: pa.Array, second: pa.Array
) -> None:
    _put(tmp_path / "a.parquet", pa.table({"x": first}))
    _put(tmp_path / "b.parquet", pa.table({"x": second}))
    with pytest.raises(InputError, match=r"the column x .*a\.parquet.*b\.parquet"):
        open_source(str(tmp_path))


def test_naive_times_are_utc_and_lost_nanoseconds_are_refused(tmp_path: Path) -> None:
    noon = dt.datetime(2024, 6, 1, 12)
    _put(tmp_path / "t" / "a.parquet", pa.table({"t": pa.array([noon], pa.timestamp("us"))}))
    _put(tmp_path / "t" / "b.parquet", pa.table({"t": pa.array([noon], pa.timestamp("ns", "Europe/Oslo"))}))
    assert [row["t"] for row in _rows(open_source(str(tmp_path / "t")))] == [
        noon.replace(tzinfo=dt.UTC),
        pa.scalar(noon, pa.timestamp("us", "Europe/Oslo")).as_py().astimezone(dt.UTC),
    ]
    lost = _put(tmp_path / "n.parquet", pa.table({"t": pa.array([1_717_243_200_000_000_001], pa.timestamp("ns"))}))
    with pytest.raises(InputError, match="the column t") as caught:
        open_source(lost)
    assert "1717243200000000001" not in str(caught.value)


def test_unsigned_keys_are_exact_or_refused(tmp_path: Path) -> None:
    keys = Wanted(whole=("u",))
    small = _put(tmp_path / "small.parquet", pa.table({"u": pa.array([5], pa.uint64())}))
    assert _rows(open_source(small, wanted=keys)) == [{"u": 5}]
    assert open_source(small, wanted=keys).schema.field("u").type == pa.int64()
    assert _rows(open_source(small)) == [{"u": Decimal(5)}]
    large = _put(tmp_path / "large.parquet", pa.table({"u": pa.array([2**63 + 5], pa.uint64())}))
    with pytest.raises(InputError, match="the column u") as caught:
        open_source(large, wanted=keys)
    assert str(2**63 + 5) not in str(caught.value)


@pytest.mark.parametrize("name", ["_file", "_POS", "_metadata", "_change_type", "_dedup_x", "_rank"])
def test_reserved_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SchemaError, match=name):
        open_source(_put(tmp_path / "log.parquet", pa.table({name: [1]})))


def test_what_paths_say_stays_a_text_and_must_agree_with_the_file(tmp_path: Path) -> None:
    for value in ("007", "7", "a%20b", "__HIVE_DEFAULT_PARTITION__"):
        _put(tmp_path / "log" / f"store={value}" / "a.parquet", pa.table({"x": [1]}))
    found = [row["store"] for row in _rows(open_source(str(tmp_path / "log")))]
    assert sorted(found, key=str) == ["007", "7", None, "a b"]
    declared = open_source(str(tmp_path / "log" / "store=7" / ".."), wanted=Wanted(types={"store": pa.string()}))
    assert "store" in declared.schema.names
    _put(tmp_path / "both" / "c=7" / "a.parquet", pa.table({"c": [7]}))
    assert _rows(open_source(str(tmp_path / "both"))) == [{"c": 7}]
    _put(tmp_path / "both" / "c=8" / "a.parquet", pa.table({"c": [7]}))
    with pytest.raises(InputError, match="the column c differs from the path"):
        open_source(str(tmp_path / "both"))


@pytest.mark.parametrize("name", ["a[1]", "a{1}", "b:c", "d#e", "f g", "h%20i", "j*k", "l?m", "n,o", "ü"])
def test_a_name_that_exists_is_that_file(tmp_path: Path, name: str) -> None:
    place = _put(tmp_path / f"{name}.parquet", pa.table({"x": [name]}))
    _put(tmp_path / "a1.parquet", pa.table({"x": ["another"]}))
    assert _rows(open_source(place)) == [{"x": name}]


def test_patterns_name_files_and_folders(tmp_path: Path) -> None:
    for day in (1, 2, 11):
        _put(tmp_path / f"day={day}" / "a.parquet", pa.table({"x": [day]}))
    found = open_source(str(tmp_path / "day={1,2}"))
    assert [row["x"] for row in _rows(found)] == [1, 2]
    assert [row["x"] for row in _rows(open_source(str(tmp_path / "day=1*" / "*.parquet")))] == [1, 11]


def test_kinds_are_told_by_names_then_by_content(tmp_path: Path) -> None:
    _put(tmp_path / "log" / "000000_0", pa.table({"x": [1]}))
    _put(tmp_path / "log" / "x.parquet", pa.table({"x": [2]}))
    _text(tmp_path / "log" / "_SUCCESS", b"")
    assert [row["x"] for row in _rows(open_source(str(tmp_path / "log")))] == [1, 2]
    _text(tmp_path / "log" / "z.csv", b"x\n3\n")
    with pytest.raises(InputError, match=r"several kinds.*000000_0.*z\.csv"):
        open_source(str(tmp_path / "log"))
    with pytest.raises(InputError, match="Avro"):
        open_source(_text(tmp_path / "a.avro", b"Obj\x01"))
    with pytest.raises(InputError, match="compressed as a whole"):
        find_address(_text(tmp_path / "a.parquet.gz", b""))
    with pytest.raises(InputError, match="there is no file"):
        find_address(str(tmp_path / "nothing.csv"))
    assert find_address("lake.clicks").kind is Kind.TABLE


KEYS = Wanted(needed=("u", "i"), texts=("u", "i"))


def test_csv_by_header_with_quotes_breaks_and_a_byte_order_mark(tmp_path: Path) -> None:
    _text(tmp_path / "1.csv", b'\xef\xbb\xbfu,i,t,x\n0042,1,"say ""hi""",1\n42,2,"two\r\nlines",\n')
    _text(tmp_path / "2.csv", b"t,i,u,x,q\na,3,7,3,1.5\n")
    assert _rows(open_source(str(tmp_path), wanted=KEYS)) == [
        {"u": "0042", "i": "1", "t": 'say "hi"', "x": 1, "q": None},
        {"u": "42", "i": "2", "t": "two\r\nlines", "x": None, "q": None},
        {"u": "7", "i": "3", "t": "a", "x": 3, "q": 1.5},
    ]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "-2"], pa.int64()),
        (["1", "007"], pa.string()),
        (["1.5", "2", "1e3"], pa.float64()),
        (["1.5", "9007199254740993"], pa.string()),
        (["18446744073709551615"], pa.string()),
        (["true", "False"], pa.bool_()),
        (["1", "true"], pa.string()),
        (["2024-01-01"], pa.string()),
        (["nan"], pa.string()),
    ],
)
def test_only_plain_numbers_become_numbers(tmp_path: Path, texts: list[str], kind: pa.DataType) -> None:
    place = _text(tmp_path / "log.csv", "\n".join(["x,y", *(f"{t},a" for t in texts)]).encode())
    assert open_source(place).schema.field("x").type == kind


def test_a_file_without_a_header_among_others_is_said(tmp_path: Path) -> None:
    _text(tmp_path / "1.csv", b"u,i\n1,2\n")
    _text(tmp_path / "2.csv", b"3,4\n5,6\n")
    source = open_source(str(tmp_path), wanted=KEYS)
    assert [row["u"] for row in _rows(source)] == ["1", "3", "5"]
    assert "2.csv has no header" in source.notes[0]


def test_texts_that_are_refused_name_the_file(tmp_path: Path) -> None:
    for name, content, told in (
        ("short", b"u,i\n1\n", "2 fields"),
        ("latin", b"u,i\n1,\xe9\n", "UTF-8"),
        ("wide", "u,i\n1,2\n".encode("utf-16"), "UTF-16"),
        ("twice", b"u,i,i\n1,2,3\n", "twice"),
        ("other", b"a,b\n1,2\n", "column u"),
        ("nothing", b"", "empty"),
    ):
        with pytest.raises(InputError, match=rf"{name}\.csv") as caught:
            open_source(_text(tmp_path / f"{name}.csv", content), wanted=KEYS)
        assert told in str(caught.value)


def test_compressed_texts_and_other_delimiters(tmp_path: Path) -> None:
    (tmp_path / "z.csv.gz").write_bytes(gzip.compress(b"u;i\n1;2\n"))
    assert _rows(open_source(str(tmp_path / "z.csv.gz"))) == [{"u": 1, "i": 2}]
    assert _rows(open_source(_text(tmp_path / "t.tsv", b"u\ti\n1\ta,b\n"))) == [{"u": 1, "i": "a,b"}]


def test_json_lines_keep_texts_and_large_numbers(tmp_path: Path) -> None:
    lines = b'{"u":"0042","n":18446744073709551615,"t":"2024-01-01 10:00:00"}\n\n{"u":"7","n":1,"l":[1]}\n'
    assert _rows(open_source(_text(tmp_path / "a.jsonl", lines))) == [
        {"u": "0042", "n": Decimal(2**64 - 1), "t": "2024-01-01 10:00:00", "l": None},
        {"u": "7", "n": Decimal(1), "t": None, "l": [1]},
    ]
    with pytest.raises(InputError, match=r"line 2 of .*b\.jsonl"):
        open_source(_text(tmp_path / "b.jsonl", b'{"u":1}\n[1]\n'))
    with pytest.raises(InputError, match=r"the column u has values of several types in .*c\.jsonl"):
        open_source(_text(tmp_path / "c.jsonl", b'{"u":1}\n{"u":"1"}\n'))


def test_a_delta_folder_is_its_log(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    place = str(tmp_path / "table")
    deltalake.write_deltalake(place, pa.table({"u": [1, 2, 3], "p": ["a", "a", "b"]}), partition_by=["p"])
    deltalake.DeltaTable(place).delete("u = 2")
    assert _rows(open_source(place)) == [{"u": 1, "p": "a"}, {"u": 3, "p": "b"}]


def test_a_table_with_rows_that_delete_files_take_away_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = TableFiles("shop.log", TableRole.LOGS.value, (), deleted_rows=3)
    monkeypatch.setattr("dedup_storage.sources.catalog.catalog_table", lambda name, settings: None)
    monkeypatch.setattr("dedup_storage.sources.catalog.table_files", lambda opened, name: table)
    with pytest.raises(InputError, match=r"the table shop\.log has 3 rows that delete files take away.*Compact"):
        open_source("shop.log", settings=Settings())


def test_ids_stand_as_they_are_but_for_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    assert read_ids(Path(_text(tmp_path / "ids", b"\xef\xbb\xbfalice\r\nbob \n\n \n"))) == ["alice", "bob "]
    with pytest.raises(InputError, match="UTF-8"):
        read_ids(Path(_text(tmp_path / "wide", "alice\n".encode("utf-16"))))


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("u", pa.array([1.0]), "user key u .*double"),
        ("u", pa.array([True]), "user key u .*bool"),
        ("r", pa.array([[1]]), "request key r .*list"),
        ("i", pa.array([1.5]), "item i .*double"),
        ("t", pa.array([True]), "event time t .*bool"),
        ("h", pa.array(["1,2"]), "list column h .*string"),
        ("p", pa.array([1.0]), "position p .*double"),
    ],
)
def test_footers_tell_what_does_not_fit(tmp_path: Path, column: str, values: pa.Array, told: str) -> None:
    schema = LogSchema.from_dict(
        {"user": "u", "request": "r", "item": "i", "event_time": "t", "position": "p", "sequences": [{"column": "h"}]}
    )
    good = pa.table({"u": [1], "r": ["a"], "i": [1], "t": [1717243200], "p": [0], "h": [[1]]})
    check_source(open_source(_put(tmp_path / "good.parquet", good)), schema)
    bad = good.set_column(good.schema.get_field_index(column), column, values)
    with pytest.raises(SchemaError, match=told):
        check_source(open_source(_put(tmp_path / "bad.parquet", bad)), schema)
    with pytest.raises(SchemaError, match=f"the column {column} is not in"):
        check_source(open_source(_put(tmp_path / "less.parquet", good.drop_columns([column]))), schema)


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("a b", "the column name 'a b' cannot be used"),
        ("", "the column name '' cannot be used"),
        ("_file", "the column _file has a name that Iceberg uses itself"),
        ("_dedup_item", "the column _dedup_item has a name that dedup_storage uses itself"),
        ("u", "the impression column u is also a request column"),
        ("R", "the impression column R is also a request column"),
    ],
)
def test_names_inside_candidates_are_those_of_columns(tmp_path: Path, field: str, told: str) -> None:
    candidates = pa.array([[(5, 7)]], pa.list_(pa.struct([("i", pa.int64()), (field, pa.int64())])))
    place = _put(tmp_path / "log.parquet", pa.table({"u": [1], "r": ["a"], "c": candidates}))
    schema = LogSchema.from_dict({"user": "u", "request": ["r"], "item": "i", "candidates": {"c": "*"}})
    with pytest.raises(UsageError, match=told):
        check_source(open_source(place), schema)


def test_event_time_with_a_unit_is_written_as_it_is_read() -> None:
    told = {"user": "u", "request": ["r"], "item": "i", "event_time": {"column": "t", "unit": "ms"}}
    schema = LogSchema.from_dict(told)
    assert (schema.event_time, schema.time_unit) == ("t", "ms")
    assert schema.to_dict() == told
    assert LogSchema.from_dict(schema.to_dict()) == schema
    with pytest.raises(SchemaError, match="event_time"):
        LogSchema.from_dict({**told, "event_time": {"unit": "ms"}})


def test_an_iceberg_folder_is_its_newest_metadata(tmp_path: Path) -> None:
    catalog = pytest.importorskip("pyiceberg.catalog").load_catalog(
        "here", type="sql", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/lake"
    )
    catalog.create_namespace("n")
    rows = pa.table({"u": [1, 2, 3], "x": ["a", "b", "c"]})
    table = catalog.create_table("n.log", rows.schema)
    table.append(rows)
    table.delete("u = 2")
    with table.update_schema() as change:
        change.rename_column("x", "y")
    source = open_source(table.location().removeprefix("file://"))
    assert source.address.kind is Kind.ICEBERG
    assert _rows(source) == [{"u": 1, "y": "a"}, {"u": 3, "y": "c"}]


def test_declared_types_hold_for_texts_and_for_columns_without_a_value(tmp_path: Path) -> None:
    empty = _put(tmp_path / "log.parquet", pa.table({"u": [1], "x": pa.nulls(1)}))
    with pytest.raises(InputError, match="the column x has no value"):
        open_source(empty)
    declared = Wanted(types={"x": pa.string()})
    assert _rows(open_source(empty, wanted=declared)) == [{"u": 1, "x": None}]
    whole = Wanted(needed=("u",), texts=("u",), types={"u": pa.int64()})
    assert _rows(open_source(_text(tmp_path / "a.csv", b"u,x\n42,1\n"), wanted=whole)) == [{"u": 42, "x": 1}]
    with pytest.raises(InputError, match="1 texts of the column u are no values"):
        open_source(_text(tmp_path / "b.csv", b"u,x\n0042,1\n42,1\n"), wanted=whole)


def test_a_delta_folder_has_the_tables_types_and_columns(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    place = str(tmp_path / "table")
    rows = pa.table({"u": [1], "day": [dt.date(2024, 1, 2)]})
    deltalake.write_deltalake(place, rows, partition_by=["day"])
    more = rows.append_column("price", pa.array([1.5]))
    deltalake.write_deltalake(place, more, mode="append", schema_mode="merge")
    deltalake.DeltaTable(place).delete("price = 1.5")
    assert _rows(open_source(place)) == [{"u": 1, "day": dt.date(2024, 1, 2), "price": None}]


def test_json_numbers_with_and_without_a_point_are_one_column(tmp_path: Path) -> None:
    _text(tmp_path / "log" / "a.jsonl", b'{"x":5}\n')
    _text(tmp_path / "log" / "b.jsonl", b'{"x":5.5}\n')
    assert _rows(open_source(str(tmp_path / "log"))) == [{"x": 5.0}, {"x": 5.5}]
    _text(tmp_path / "log" / "c.jsonl", b'{"x":9007199254740993}\n')
    with pytest.raises(InputError, match="the column x"):
        open_source(str(tmp_path / "log"))


def test_times_of_96_bits_are_instants(tmp_path: Path) -> None:
    noon = dt.datetime(2024, 6, 1, 12, 0, 0, 1)
    rows = pa.table({"t": pa.array([noon]), "l": pa.array([[noon]])})
    pq.write_table(rows, tmp_path / "old.parquet", use_deprecated_int96_timestamps=True)
    source = open_source(str(tmp_path))
    zoned = noon.replace(tzinfo=dt.UTC)
    assert _rows(source) == [{"t": zoned, "l": [zoned]}]
    assert source.files[0].path == str(tmp_path / "old.parquet")


def test_the_page_of_inputs_names_a_test_for_each_kind() -> None:
    root = Path(__file__).resolve().parents[2]
    lines = (root / "docs" / "inputs.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").rpartition("|")[2] for line in lines if line.startswith("|")][2:]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`([^`]+)`", row)
        assert named or "same" in row, row
        assert all((root / "tests" / name).is_file() for name in named), row


@pytest.mark.parametrize("nested", [False, True])
def test_a_name_that_occurs_twice_is_told_with_its_file(tmp_path: Path, nested: bool) -> None:
    """Nothing tells which of two columns is meant."""
    pair = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["device", "Device"])
    lists = pa.ListArray.from_arrays([0, 1], pair)
    table = pa.table({"u": [1], "r": [1], "i": [1], "seen": lists})
    if not nested:
        table = table.drop_columns("seen").append_column("device", [["a"]]).append_column("device", [["b"]])
    pq.write_table(table, tmp_path / "day.parquet")
    column = "seen.Device" if nested else "device"
    with pytest.raises(SchemaError, match=rf"the column {column} occurs twice in the file .*day\.parquet"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("bigint", pa.int64()),
        (" Integer ", pa.int32()),
        ("decimal(10, 2)", pa.decimal128(10, 2)),
        ("decimal", pa.decimal128(10, 0)),
        ("varchar(20)", pa.string()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("array<array<timestamp_ntz>>", pa.list_(pa.list_(pa.timestamp("us")))),
        ("map<string,double>", pa.map_(pa.string(), pa.float64())),
        ("struct<`a b``c`:int,d:array<date>>", pa.struct([("a b`c", pa.int32()), ("d", pa.list_(pa.date32()))])),
        ("variant", None),
        ("array<interval day to second>", None),
    ],
)
def test_types_in_sparks_words_are_arrows(text: str, kind: pa.DataType | None) -> None:
    assert declared_types({"x": text}) == ({} if kind is None else {"x": kind})


@pytest.mark.parametrize(
    "text", ["bigin", "array<", "array<int>>", "decimal(1,2,3)", "struct<a:int", "int!", "", "int(3)", "decimal(2,5)"]
)
def test_what_is_no_type_is_refused_without_spark(text: str) -> None:
    with pytest.raises(SchemaError, match="the type of the column x is not known"):
        declared_types({"x": text})


def test_types_of_the_schema_are_asked_of_every_command_s_source(tmp_path: Path) -> None:
    """The remedy that a refusal names works, and a type that is not that of the column is refused, not passed over."""
    place = _put(tmp_path / "a.parquet", pa.table({"u": [1], "r": [1], "i": [1], "x": pa.nulls(1), "n": ["1"]}))

    def opened(types: dict[str, str]) -> Source:
        schema = LogSchema.from_dict({"user": "u", "request": "r", "item": "i", "types": types})
        source = open_source(place, wanted=wanted_columns(schema))
        check_source(source, schema)
        return source

    with pytest.raises(InputError, match=r"types: \{x: string\}"):
        opened({})
    assert opened({"x": "string"}).schema.field("x").type == pa.string()
    with pytest.raises(SchemaError, match=r"types says bigint of the column n.*got string in .*a\.parquet.*Cast n"):
        opened({"x": "string", "n": "bigint"})
    with pytest.raises(SchemaError, match="types names the column m, which is not in"):
        opened({"x": "string", "m": "bigint"})
