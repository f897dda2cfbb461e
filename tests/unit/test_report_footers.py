"""Footers: the sums are those of the files, to the byte, and a broken file is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_storage.errors import StorageError
from dedup_storage.lake.folders import resolve_uri
from dedup_storage.report.parquet.footers import DataFile, Totals, iter_footers, read_footer
from dedup_storage.report.parquet.pages import read_pages
from dedup_storage.report.parquet.raw_bytes import element_count, raw_bytes

TABLE = pa.table(
    {
        "user_id": pa.array([1, 1, 2, None], pa.int64()),
        "history": pa.array([[1, 2, 3], [], None, [None, 5]], pa.list_(pa.int64())),
        "place": pa.array([{"city": "Oslo", "tags": ["a", "b"]}] * 4),
        "dotted.name": pa.array(["x", "y", "x", "y"]),
    }
)


def write(folder: Path, count: int, **options: object) -> list[DataFile]:
    files = []
    for i in range(count):
        path = folder / f"part-{i:05d}.parquet"
        pq.write_table(TABLE.slice(i % 3), path, compression="zstd", row_group_size=2, **options)
        files.append(DataFile(str(path), path.stat().st_size, {"bucket": str(i % 2)}))
    return files


def by_hand(files: list[DataFile]) -> tuple[dict[str, int], dict[str, int]]:
    """Stored and encoded bytes of each leaf, read one attribute at a time."""
    stored: dict[str, int] = {}
    encoded: dict[str, int] = {}
    for file in files:
        for group in pq.read_metadata(file.path).to_dict()["row_groups"]:
            for chunk in group["columns"]:
                leaf = chunk["path_in_schema"]
                stored[leaf] = stored.get(leaf, 0) + chunk["total_compressed_size"]
                encoded[leaf] = encoded.get(leaf, 0) + chunk["total_uncompressed_size"]
    return stored, encoded


def test_sums_equal_the_footers_to_the_byte(tmp_path: Path) -> None:
    files = write(tmp_path, 23)
    totals = Totals.of(iter_footers(files, threads=3))
    stored, encoded = by_hand(files)
    place = [leaf for leaf in stored if leaf.startswith("place.")]
    assert len(place) == 2
    assert totals.columns["place"].stored_bytes == sum(stored[leaf] for leaf in place)
    assert totals.columns["place"].encoded_bytes == sum(encoded[leaf] for leaf in place)
    assert totals.columns["history"].stored_bytes == stored["history.list.element"]
    assert totals.columns["dotted.name"].stored_bytes == stored["dotted.name"]
    assert totals.column_bytes == sum(stored.values())
    assert totals.size_bytes == sum(Path(f.path).stat().st_size for f in files)
    assert totals.overhead_bytes == totals.size_bytes - sum(stored.values()) > 0
    assert (totals.files, totals.rows) == (23, sum(pq.read_table(f.path).num_rows for f in files))


def test_values_and_nulls_count_leaves(tmp_path: Path) -> None:
    file = write(tmp_path, 1)[0]
    history = read_footer(file).columns["history"]
    # Six entries, and the empty and the missing list count once each as nulls; so does the null element.
    assert (history.values, history.nulls) == (7, 3)


def test_writers_that_name_the_elements_of_lists_otherwise_are_counted_together(tmp_path: Path) -> None:
    table = pa.table(
        {"h": [[1, 2, 3], [4]], "m": pa.array([[("a", [1])]] * 2, pa.map_(pa.string(), pa.list_(pa.int8())))}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table, tmp_path / "b.parquet", use_compliant_nested_type=False)
    totals = Totals.of(iter_footers([DataFile(str(tmp_path / f"{name}.parquet")) for name in "ab"]))
    kinds = totals.arrow_schema
    assert {n: element_count(kinds.field(n).type, totals.columns[n]) for n in kinds.names} == {"h": 8, "m": 8}
    assert raw_bytes(kinds.field("h").type, totals.columns["h"], totals.rows) == (8 * 8 + 4 * 4, True)
    # The names inside lists are no difference between files: nothing has to be brought into one schema.
    assert not totals.mixed


def test_raw_bytes_of_texts_that_are_mostly_null(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    column = pa.array(["x" * 100, None, None, None] * 500)
    pq.write_table(pa.table({"s": column}), path, use_dictionary=False)
    totals, pages = read_footer(DataFile(str(path))).columns["s"], read_pages([DataFile(str(path))])["s"]
    assert raw_bytes(column.type, totals, len(column), pages) == (column.nbytes, True)


def test_files_that_differ_make_one_schema(tmp_path: Path) -> None:
    tables = {"a": pa.table({"n": pa.array([1], pa.int32())}), "b": pa.table({"n": [2**40], "new": ["x"]})}
    for name, table in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    for order in ("ab", "ba"):
        totals = Totals.of(iter_footers([DataFile(str(tmp_path / f"{name}.parquet")) for name in order]))
        assert totals.mixed
        assert {f.name: f.type for f in totals.arrow_schema} == {"n": pa.int64(), "new": pa.string()}


def test_partitions_sum_to_the_whole(tmp_path: Path) -> None:
    files = write(tmp_path, 5)
    totals = Totals.of(iter_footers(files))
    assert set(totals.partitions) == {("bucket", "0"), ("bucket", "1")}
    assert sum(p.size_bytes for p in totals.partitions.values()) == totals.size_bytes
    assert sum(p.column_bytes["history"] for p in totals.partitions.values()) == totals.columns["history"].stored_bytes
    assert totals.partitions["bucket", "1"].files == 2


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = bytearray()
    elif how == "text":
        data = bytearray(b"user_id,item\n1,2\n")
    elif how == "footer":
        length = int.from_bytes(data[-8:-4], "little")
        data[-8 - length : -8] = b"\xff" * length
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "footer"])
def test_a_broken_file_is_named(tmp_path: Path, how: str) -> None:
    files = write(tmp_path, 9)
    damage(Path(files[6].path), how)
    with pytest.raises(StorageError, match=r"part-00006\.parquet cannot be read") as caught:
        Totals.of(iter_footers([DataFile(f.path) for f in files]))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    files = write(tmp_path, 3)
    Path(files[1].path).unlink()
    with pytest.raises(StorageError, match=r"part-00001\.parquet is missing"):
        list(iter_footers(files))


def test_a_file_of_another_size_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, 1)[0]
    with pytest.raises(StorageError, match=rf"part-00000\.parquet has another size .*expected {file.size_bytes + 1} "):
        read_footer(DataFile(file.path, (file.size_bytes or 0) + 1))


def test_a_passing_failure_is_tried_again(tmp_path: Path) -> None:
    file = write(tmp_path, 1)[0]
    calls = []

    def flaky(path: str) -> tuple[pafs.FileSystem, str]:
        calls.append(path)
        if len(calls) < 3:
            raise OSError("connection reset by peer")
        return resolve_uri(path)

    assert read_footer(file, flaky).rows == 4
    assert len(calls) == 3


def test_a_lasting_failure_ends_after_the_attempts(tmp_path: Path) -> None:
    file = write(tmp_path, 1)[0]
    calls = []

    def broken(path: str) -> tuple[pafs.FileSystem, str]:
        calls.append(path)
        raise OSError("connection reset by peer")

    with pytest.raises(StorageError, match="connection reset by peer"):
        read_footer(file, broken, attempts=2)
    assert len(calls) == 2


def test_order_is_kept_progress_is_told_and_few_files_are_in_flight(tmp_path: Path) -> None:
    files = write(tmp_path, 40)
    taken = 0

    def counted() -> Iterator[DataFile]:
        nonlocal taken
        for file in files:
            taken += 1
            yield file

    told: list[int] = []
    for done, footer in enumerate(iter_footers(counted(), threads=2, on_file=told.append)):
        assert footer.file is files[done]
        assert taken - done <= 4
    assert told == list(range(1, 41))


def test_uris_and_paths_name_the_same_file(tmp_path: Path) -> None:
    file = write(tmp_path, 1)[0]
    sizes = {read_footer(DataFile(p)).size_bytes for p in (file.path, f"file:{file.path}", f"file://{file.path}")}
    assert sizes == {file.size_bytes}


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(StorageError, match=r"nosuch://there/file\.parquet"):
        read_footer(DataFile("nosuch://there/file.parquet"), attempts=1)


leaf_types = st.sampled_from([pa.int64(), pa.string(), pa.bool_(), pa.float32(), pa.timestamp("us"), pa.date32()])
any_type = st.recursive(
    leaf_types,
    lambda inner: st.one_of(
        st.builds(pa.list_, inner),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda kinds: pa.struct([(f"f{i}", k) for i, k in enumerate(kinds)])
        ),
        st.builds(pa.map_, st.just(pa.string()), inner),
    ),
    max_leaves=5,
)


@given(st.lists(any_type, min_size=1, max_size=4))
def test_every_leaf_belongs_to_its_column(kinds: list[pa.DataType]) -> None:
    names = [f"c{i}" for i in range(len(kinds))]
    table = pa.table([pa.nulls(3, kind) for kind in kinds], names=names)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    buffer = sink.getvalue()
    expected: dict[str, int] = dict.fromkeys(names, 0)
    group = pq.read_metadata(pa.BufferReader(buffer)).row_group(0)
    for i in range(group.num_columns):
        expected[group.column(i).path_in_schema.split(".")[0]] += group.column(i).total_compressed_size

    class Memory:
        def open_input_file(self, path: str) -> pa.BufferReader:
            return pa.BufferReader(buffer)

    footer = read_footer(DataFile("memory"), lambda path: (Memory(), path))  # type: ignore[arg-type, return-value]
    assert {name: c.stored_bytes for name, c in footer.columns.items()} == expected
