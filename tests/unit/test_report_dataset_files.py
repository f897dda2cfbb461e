"""Which files a version, a table and a folder consist of, and the short summary."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import DateType, ListType, LongType, NestedField

from dedup_storage.config import Settings
from dedup_storage.errors import DatasetNotFoundError, InputError, VersionNotFoundError
from dedup_storage.layout import ROLE_PROPERTY, SPEC_PROPERTY, DatasetSpec, Layout
from dedup_storage.report.parquet.dataset_files import dataset_files, folder_files, input_files
from dedup_storage.report.parquet.footers import DataFile, Totals, iter_footers
from dedup_storage.report.parquet.tables import DatasetFiles, TableFiles
from dedup_storage.report.show.summary import summarize
from dedup_storage.schema import DateGrain, LogSchema

SCHEMA = LogSchema.from_dict(
    {
        "user": "user_id",
        "request": "request_id",
        "item": "item_id",
        "event_time": "ts",
        "sequences": [{"column": "seq"}],
    }
)
SOURCE = {"user_id": "bigint", "request_id": "bigint", "ts": "bigint", "seq": "array<bigint>", "item_id": "bigint"}


def rows(first: int, count: int) -> pa.Table:
    ids = list(range(first, first + count))
    return pa.table(
        {
            "user_id": ids,
            "request_id": ids,
            "event_date": pa.array([dt.date(2024, 5, 1 + i % 2) for i in ids]),
            "ts": ids,
            "seq": pa.array([[i] * 50 for i in ids], pa.list_(pa.int64())),
        }
    )


@pytest.fixture
def lake(tmp_path: Path) -> Settings:
    """A dataset `d` with two versions of a request table and an impression table that joined in version 2."""
    from dedup_storage.lake.iceberg.catalog import pyiceberg_properties

    settings = Settings(warehouse=str(tmp_path / "warehouse"))
    spec = DatasetSpec.build("d", SCHEMA, SOURCE, layout=Layout.SPLIT, date_grain=DateGrain.DAY, buckets=4)
    catalog = load_catalog(settings.catalog.name, **pyiceberg_properties(settings))
    catalog.create_namespace("d")
    schema = Schema(
        NestedField(1, "user_id", LongType()), NestedField(2, "request_id", LongType()),
        NestedField(3, "event_date", DateType()), NestedField(4, "ts", LongType()),
        NestedField(5, "seq", ListType(6, LongType(), element_required=False)),
    )  # fmt: skip
    by_date = PartitionSpec(PartitionField(3, 1000, IdentityTransform(), "event_date"))
    properties = {SPEC_PROPERTY: spec.to_json(), ROLE_PROPERTY: "requests"}
    requests = catalog.create_table("d.requests", schema, partition_spec=by_date, properties=properties)
    impressions = catalog.create_table("d.impressions", schema, properties={ROLE_PROPERTY: "impressions"})
    catalog.create_table("d.other", schema)
    for version in (1, 2):
        requests.append(rows(100 * version, 40))
        if version == 2:
            impressions.append(rows(100, 80))
        for table in (requests, impressions):
            snapshot = table.current_snapshot()
            if snapshot is not None:
                table.manage_snapshots().create_tag(snapshot.snapshot_id, f"v{version}").commit()
    requests.append(rows(900, 40))
    return settings


def test_a_version_is_its_tags_and_never_main(lake: Settings) -> None:
    first, second = dataset_files(lake, "d", 1), dataset_files(lake, "d")
    assert (first.version, second.version) == (1, 2)
    assert [(t.name, t.role) for t in first.tables] == [("requests", "requests")]
    assert [(t.name, t.role) for t in second.tables] == [("requests", "requests"), ("impressions", "impressions")]
    assert {f.path for f in first.tables[0].files} < {f.path for f in second.tables[0].files}
    totals = Totals.of(iter_footers(second.tables[0].files, resolve=second.tables[0].resolve))
    assert totals.rows == 80
    assert set(totals.partitions) == {("event_date", "2024-05-01"), ("event_date", "2024-05-02")}


def test_names_that_do_not_exist(lake: Settings) -> None:
    with pytest.raises(DatasetNotFoundError, match="one of d"):
        dataset_files(lake, "e")
    with pytest.raises(VersionNotFoundError, match="1 to 2"):
        dataset_files(lake, "d", 3)
    with pytest.raises(InputError, match=r"no table d\.nothing"):
        input_files("d.nothing", lake)


def test_any_table_of_the_catalog_is_an_input(lake: Settings) -> None:
    table = input_files("d.requests", lake)
    assert Totals.of(iter_footers(table.files, resolve=table.resolve)).rows == 120
    assert input_files("d.other", lake).files == ()


def test_summary_compares_column_by_column(lake: Settings, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    table = rows(0, 300)
    pq.write_table(table.append_column("item_id", table["user_id"]), flat / "a.parquet", compression="zstd")
    summary = summarize(dataset_files(lake, "d"), folder_files(str(flat)))
    group = pq.read_metadata(flat / "a.parquet").row_group(0)
    seq = summary.columns[0]
    assert (seq.column, seq.sequence) == ("seq", True)
    assert seq.flat_bytes == group.column(4).total_compressed_size
    stored = 0
    for entry in dataset_files(lake, "d").tables:
        for file in entry.files:
            stored += pq.read_metadata(file.path.removeprefix("file://")).row_group(0).column(4).total_compressed_size
    assert seq.dataset_bytes == stored
    assert (summary.flat_rows, summary.request_rows) == (300, 80)
    assert summary.flat_bytes == (flat / "a.parquet").stat().st_size
    item = next(c for c in summary.columns if c.column == "item_id")
    assert item.dataset_bytes == 0
    assert item.ratio is None


def test_candidates_are_held_against_the_columns_that_they_became(tmp_path: Path) -> None:
    roles = {"user": "user", "request": "request", "item": "hotel", "labels": ["clicked"], "position": "rank"}
    schema = LogSchema.from_dict(roles | {"candidates": {"shown": "*"}, "columns": {"price": "impression"}})
    types = {"user": "bigint", "request": "bigint", "hotel": "bigint", "clicked": "boolean", "rank": "int"}
    spec = DatasetSpec.build(
        "d", schema, types | {"price": "double"}, layout=Layout.SPLIT, date_grain=DateGrain.NONE, buckets=1
    )
    keys = {"user": [1, 2], "request": [1, 2]}
    shown = {"hotel": [7, 8, 9], "clicked": [True, False, None], "rank": [0, 1, 0], "price": [1.0, 2.0, 3.0]}
    cells = [dict(zip(shown, row, strict=True)) for row in zip(*shown.values(), strict=True)]
    feature = {"added": [1, 2, 3]}
    pq.write_table(pa.table(keys | {"shown": [cells[:2], cells[2:]]}), tmp_path / "log.parquet")
    pq.write_table(pa.table(keys), tmp_path / "r.parquet")
    pq.write_table(pa.table({"user": [1, 1, 2], "request": [1, 1, 2]} | shown | feature), tmp_path / "i.parquet")
    tables = tuple(
        TableFiles(role, role, (DataFile(str(tmp_path / f"{role[0]}.parquet")),))
        for role in ("requests", "impressions")
    )
    summary = summarize(DatasetFiles(spec, 1, tables), folder_files(str(tmp_path / "log.parquet")))
    group = pq.read_metadata(tmp_path / "i.parquet").row_group(0)
    sizes = {group.column(n).path_in_schema: group.column(n).total_compressed_size for n in range(group.num_columns)}
    told = {column.column: column for column in summary.columns}
    assert [*told] == ["shown", "request", "user", "added"]
    assert told["shown"].dataset_bytes == sum(sizes[name] for name in shown)
    assert told["added"].dataset_bytes == sizes["added"]
    assert (summary.flat_rows, summary.request_rows, summary.dedup_factor) == (3, 2, 1.5)


def test_a_folder_gives_hive_keys_and_leaves_hidden_files(tmp_path: Path) -> None:
    for place in ("day=2024-05-01/a.parquet", "day=x%20y/b.parquet", "_temporary/c.parquet", ".hidden.parquet"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows(0, 2), tmp_path / place)
    (tmp_path / "_SUCCESS").touch()
    files = folder_files(str(tmp_path)).files
    assert [(Path(f.path).name, dict(f.partition)) for f in files] == [
        ("a.parquet", {"day": "2024-05-01"}),
        ("b.parquet", {"day": "x y"}),
    ]
    assert [f.path for f in folder_files(files[0].path).files] == [files[0].path]


def test_folders_that_are_no_log(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        folder_files(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="holds no Parquet files"):
        input_files(str(tmp_path))


def test_a_delta_table_is_its_log_and_not_its_folder(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    place = str(tmp_path / "delta")
    table = pa.table({"a": [1, 2, 3], "p": ["x y", "b", "b"]})
    deltalake.write_deltalake(place, table, partition_by=["p"])
    deltalake.write_deltalake(place, table.slice(0, 1), partition_by=["p"], mode="overwrite")
    source = input_files(place)
    assert [dict(f.partition) for f in source.files] == [{"p": "x y"}]
    assert Totals.of(iter_footers(source.files)).rows == 1
