"""Files that are not read, each told for what it is; two frames, and structs, whose names or types do not agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup_storage.errors import InputError, SchemaError, StorageError
from dedup_storage.lake.folders import Store
from dedup_storage.schema import LogSchema
from dedup_storage.sources.check import check_source
from dedup_storage.sources.damaged import unreadable
from dedup_storage.sources.scratch import ScratchFolder
from dedup_storage.sources.source import open_source

ROWS = pa.table({"u": range(9_000), "r": range(9_000), "i": range(9_000)})


def _put(path: Path, table: pa.Table) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return str(path)


def test_only_a_damaged_file_is_to_be_replaced(tmp_path: Path) -> None:
    """Its advice was given for notes beside the log and for files that a table needs."""
    file = Path(_put(tmp_path / "log" / "a.parquet", ROWS))
    (tmp_path / "log" / "notes.txt").write_text("Written on Monday.")
    with pytest.raises(InputError, match=r"notes\.txt is no Parquet file.*Take it out of the folder"):
        open_source(str(tmp_path / "log"), format="parquet")
    whole = file.read_bytes()
    for content, told in (
        (whole[:-9], "cannot be read.*Replace or remove the damaged file"),
        (b"", "cannot be read.*Replace or remove"),
        (b"PARE" + whole[4:-4] + b"PARE", "is encrypted Parquet"),
        (b"ORC", "is no Parquet file; .*begins with b'ORC"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=told):
            open_source(str(file))


def test_damaged_pages_and_files_that_go_are_told_by_name(tmp_path: Path) -> None:
    file = Path(_put(tmp_path / "a.parquet", ROWS))
    source, whole = open_source(str(file)), file.read_bytes()
    file.write_bytes(whole[:200] + b"\xab" * 9_000 + whole[9_200:])
    with pytest.raises(InputError, match=rf"the file {file} cannot be read.*damaged"):
        list(source.tables())
    file.unlink()
    with pytest.raises(InputError, match=rf"the file {file} is not there any more"):
        list(source.tables())


def test_a_file_that_storage_does_not_give_is_not_called_damaged() -> None:
    told = unreadable("s3://logs/a.parquet", OSError("AWS Error ACCESS_DENIED during HeadObject"), Store())
    assert isinstance(told, StorageError)
    assert "storage refused access" in str(told)


def test_the_scratch_folder_is_blamed_for_itself_alone(tmp_path: Path) -> None:
    def rows() -> Iterator[pa.Table]:
        yield ROWS
        raise OSError("the log's disk is gone")

    with pytest.raises(OSError, match="the log's disk is gone") as found:
        list(ScratchFolder(str(tmp_path)).write(rows()))
    assert not isinstance(found.value, StorageError)


@pytest.mark.parametrize("inside", ["struct", "list", "map"])
def test_fields_whose_names_differ_in_case_between_files_are_refused(tmp_path: Path, inside: str) -> None:
    """Spark takes them for one field, and Arrow for two."""
    for name in ("item", "Item"):
        struct = pa.array([{name: 1}])
        values = {
            "struct": struct,
            "list": pa.ListArray.from_arrays([0, 1], struct),
            "map": pa.MapArray.from_arrays([0, 1], ["k"], struct),
        }
        _put(tmp_path / f"{name}.parquet", pa.table({"u": [1], "s": values[inside]}))
    with pytest.raises(SchemaError, match=r"the column s\.(item|Item) occurs twice in .*, in two cases"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("key", ["42", 42.0])
def test_two_frames_whose_keys_have_other_types_are_refused(tmp_path: Path, key: object) -> None:
    """A join would cast them: 0042 and 42 would be one user, and so would neighbours above 2**53."""
    requests = open_source(_put(tmp_path / "r.parquet", pa.table({"u": [42], "r": [1]})))
    impressions = open_source(_put(tmp_path / "i.parquet", pa.table({"u": [key], "r": [1], "i": [1]})))
    schema = LogSchema.from_dict({"user": "u", "request": "r", "item": "i"})
    with pytest.raises(SchemaError, match=r"the key column u has another type in the impressions.*Cast u in one"):
        check_source(requests, schema, impressions=impressions)
