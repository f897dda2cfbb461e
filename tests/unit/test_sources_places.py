"""Which files an address stands for: none that a table's log accounts for, none twice, none left out."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from dedup_storage.errors import InputError, SchemaError
from dedup_storage.schema import LogSchema
from dedup_storage.sources.address import find_address
from dedup_storage.sources.check import check_source
from dedup_storage.sources.forms.flat import flat_source
from dedup_storage.sources.source import Wanted, open_source
from dedup_storage.sources.wanted import wanted_columns

ROWS = pa.table({"u": [1, 2], "r": [1, 2], "i": [1, 2], "p": ["a", "a"]})


def _put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(ROWS, path)
    return path


@pytest.mark.parametrize(
    ("place", "format"),
    [("lake/d/p=a", None), ("lake/d*", None), ("lake/d/p=*/*.parquet", None), ("lake", None), ("lake/d", "parquet")],
)
def test_files_of_a_delta_table_are_not_read_without_its_log(tmp_path: Path, place: str, format: str | None) -> None:
    """A part of its folder, a pattern, the folder above: each would bring back rows that were deleted."""
    table = str(tmp_path / "lake" / "d")
    write_deltalake(table, ROWS, partition_by=["p"])
    write_deltalake(table, ROWS.slice(0, 1), partition_by=["p"], mode="overwrite")
    with pytest.raises(InputError, match=rf"files of the Delta table {table}, .*Name {table}"):
        open_source(str(tmp_path / place), format=format)
    assert [t.num_rows for t in open_source(table).tables()] == [1]


@pytest.mark.parametrize(("mark", "owner"), [("metadata/v1.metadata.json", "Iceberg"), (".hoodie/x", "Hudi")])
@pytest.mark.parametrize("place", ["t/data", "*"])
def test_files_of_other_tables_are_not_read_either(tmp_path: Path, mark: str, owner: str, place: str) -> None:
    _put(tmp_path / "t" / "data" / "a.parquet")
    (tmp_path / "t" / mark).parent.mkdir(parents=True)
    (tmp_path / "t" / mark).write_text("{}")
    with pytest.raises(InputError, match=rf"files of the {owner} table {tmp_path / 't'}"):
        find_address(str(tmp_path / place))


def test_two_stars_stand_for_any_number_of_folders(tmp_path: Path) -> None:
    every = [_put(tmp_path / "log" / part / "x.parquet") for part in ("", "a", "a/b")]
    (tmp_path / "log" / "notes.csv").write_text("x")
    assert {f.path for f in find_address(str(tmp_path / "log/**/*.parquet")).files} == {str(p) for p in every}
    assert {f.path for f in find_address(str(tmp_path / "log/a/**")).files} == {str(p) for p in every[1:]}


def test_links_give_every_file_once_or_are_refused(tmp_path: Path) -> None:
    _put(tmp_path / "other" / "a.parquet")
    log = _put(tmp_path / "log" / "b.parquet").parent
    (log / "more").symlink_to(tmp_path / "other")
    assert sum(t.num_rows for t in open_source(str(log)).tables()) == 4
    (log / "again").symlink_to(log)
    with pytest.raises(InputError, match="are one file: its rows would be read twice"):
        open_source(str(log))
    (log / "again").unlink()
    (log / "gone.parquet").symlink_to(tmp_path / "nowhere.parquet")
    with pytest.raises(InputError, match=r"the link .*gone\.parquet leads to no file.*got .*nowhere"):
        open_source(str(log))


def test_a_time_in_a_path_is_utc_and_spark_is_not_asked_to_read_it(tmp_path: Path) -> None:
    for text in ("2024-06-01 10%3A00%3A00", "2024-06-01T12%3A00%3A00%2B02%3A00"):
        _put(tmp_path / f"at={text}" / "a.parquet")
    instant = pa.timestamp("us", "UTC")
    source = open_source(str(tmp_path), wanted=Wanted(types={"at": instant}))
    found = pa.concat_tables(source.tables())["at"].unique()
    assert found.cast(pa.int64()).to_pylist() == [int(dt.datetime(2024, 6, 1, 10, tzinfo=dt.UTC).timestamp() * 1e6)]
    assert not any(file.path.startswith(str(tmp_path)) for file in source.files)


def test_partitions_of_bytes_are_refused_by_name(tmp_path: Path) -> None:
    """Their values were the texts in which Python shows bytes."""
    write_deltalake(str(tmp_path), ROWS.append_column("b", [[b"\x01", b"a"]]), partition_by=["b"])
    with pytest.raises(InputError, match="partitioned by bytes: b"):
        open_source(str(tmp_path))


def test_bytes_of_texts_are_said_to_be_those_of_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("u,r,i\n1,1,1\n")
    schema = LogSchema.from_dict({"user": "u", "request": "r", "item": "i"})
    source, _ = flat_source(open_source(str(tmp_path / "a.csv")), schema)
    assert source.notes == ("its bytes are those of plain Parquet files of its rows",)
    assert flat_source(open_source(str(_put(tmp_path / "a.parquet"))), schema)[0].notes == ()


def test_a_path_tells_a_column_once(tmp_path: Path) -> None:
    _put(tmp_path / "day=1" / "day=2" / "a.parquet")
    with pytest.raises(InputError, match="tells the column day twice"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("k=+5", "bigint"), ("k=0x10", "bigint"), ("k= 5", "bigint"), ("k=300", "tinyint"), ("k=1.005", "decimal(9,2)"),
        ("k=2024", "date"), ("k=2024-1-5", "date"), ("k=2024-06-01 10%3A00%3A00", "date"), ("k=yes", "boolean"),
        ("k=[1]", "array<int>"), ("u=007", "bigint"), ("u=-0", "bigint"),
    ],
)  # fmt: skip
def test_a_value_in_a_path_is_one_of_its_type_to_every_engine(tmp_path: Path, folder: str, kind: str) -> None:
    """Spark read 2024 as the first of January, and 007 became the user 7, who has a folder beside it."""
    column = folder.partition("=")[0]
    pq.write_table(ROWS.drop_columns([column] if column == "u" else []), _put(tmp_path / folder / "a.parquet"))
    schema = LogSchema.from_dict({"user": "u", "request": "r", "item": "i", "types": {column: kind}})
    with pytest.raises(InputError, match=rf"the path of .*a\.parquet tells {column}=.*Correct the path"):
        open_source(str(tmp_path), wanted=wanted_columns(schema))


def test_a_number_in_a_path_may_have_zeros_before_it_where_it_is_no_key(tmp_path: Path) -> None:
    _put(tmp_path / "month=06" / "a.parquet")
    source = open_source(str(tmp_path), wanted=Wanted(types={"month": pa.int32()}))
    assert [t["month"].to_pylist() for t in source.tables()] == [[6, 6]]


def test_a_path_that_tells_no_value_agrees_with_its_file(tmp_path: Path) -> None:
    """Arrow took the file's values, and Spark none."""
    for value in ("a", "__HIVE_DEFAULT_PARTITION__"):
        _put(tmp_path / f"p={value}" / "a.parquet")
    with pytest.raises(InputError, match=r"the column p differs from the path of .*DEFAULT.*no value of p in any row"):
        open_source(str(tmp_path))


def test_a_column_that_no_path_gives_a_value_is_not_left_out(tmp_path: Path) -> None:
    _put(tmp_path / "k=__HIVE_DEFAULT_PARTITION__" / "a.parquet")
    with pytest.raises(InputError, match="the column k has no value and no type in any file"):
        open_source(str(tmp_path))
    source = open_source(str(tmp_path), wanted=Wanted(types={"k": pa.string()}))
    assert [t["k"].to_pylist() for t in source.tables()] == [[None, None]]


def test_what_is_no_file_and_no_name_at_all_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"is no file and no folder.*Write what a pipe"):
        find_address(str(tmp_path / "pipe"))
    # An empty variable of a shell stood for the folder that the command ran in.
    with pytest.raises(InputError, match="the log has no name"):
        find_address("")


def test_a_file_that_is_being_copied_is_left_out(tmp_path: Path) -> None:
    _put(tmp_path / "a.parquet")
    _put(tmp_path / "b.parquet._COPYING_")
    assert [file.path for file in open_source(str(tmp_path)).files] == [str(tmp_path / "a.parquet")]


def test_a_file_without_columns_lacks_those_of_the_schema(tmp_path: Path) -> None:
    pq.write_table(pa.table({}), tmp_path / "a.parquet")
    schema = LogSchema.from_dict({"user": "u", "request": "r", "item": "i"})
    with pytest.raises(SchemaError, match="the column u is not in"):
        check_source(open_source(str(tmp_path / "a.parquet")), schema)


@pytest.mark.parametrize(
    ("places", "as_they_lie"),
    [
        (["a=1/b=2", "a=2/b=__HIVE_DEFAULT_PARTITION__"], True),
        (["2024/a=1", "2024/a=2"], True),
        (["a=1/more", "a=2"], True),
        (["2024/a=1", "2025/a=1"], False),
        (["a=1/more/b=2"], False),
        (["a=1/b=2", "b=2/a=1"], False),
        (["a="], False),
        (["a=1", "."], False),
        (["_log.parquet", ".log.parquet", "log.parquet._COPYING_"], False),
    ],
)
def test_files_lie_as_they_are_where_spark_finds_their_columns_by_their_paths(
    tmp_path: Path, places: list[str], as_they_lie: bool
) -> None:
    """Elsewhere it gave up, took a column for null, or read no row; in these cases Arrow's rows are made plain."""
    named = places[0].startswith("_")
    paths = [_put(tmp_path / place / ("" if named else "rows.parquet")) for place in places]
    for log in paths if named else [tmp_path]:
        source = open_source(str(log), format="parquet")
        assert sum(t.num_rows for t in source.tables()) == (2 if named else 2 * len(paths))
        assert all(file.path.startswith(str(tmp_path)) for file in source.files) is as_they_lie
