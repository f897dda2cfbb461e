"""Iceberg tables by name or folder: what Iceberg says their rows are, whatever names and columns their files have."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.table import Table
from pyiceberg.transforms import BucketTransform, DayTransform, IdentityTransform, Transform, TruncateTransform
from pyiceberg.types import LongType, StringType

from dedup_storage.config import Settings
from dedup_storage.errors import InputError
from dedup_storage.sources.source import open_source

ROWS = pa.table(
    {
        "u": [1, 2],
        "x": ["p", "q"],
        "s": pa.array([{"a": [1]}, None], pa.struct([("a", pa.list_(pa.int64()))])),
        "t": pa.array([dt.datetime(2024, 1, 1, 5), dt.datetime(2024, 1, 2)], pa.timestamp("us", "UTC")),
    }
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(warehouse=str(tmp_path / "warehouse"))


@pytest.fixture
def catalog(settings: Settings) -> Catalog:
    from dedup_storage.lake.iceberg.catalog import pyiceberg_properties

    made = load_catalog(settings.catalog.name, **pyiceberg_properties(settings))
    made.create_namespace("n")
    return made


def _sorted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: str(sorted(row.items())))


def _by_name(settings: Settings, name: str = "n.log") -> list[dict[str, Any]]:
    return _sorted([row for table in open_source(name, settings=settings).tables() for row in table.to_pylist()])


def _rename(table: Table) -> None:
    with table.update_schema() as change:
        change.rename_column("x", "y")


def _rename_inside(table: Table) -> None:
    with table.update_schema() as change:
        change.rename_column(("s", "a"), "b")


def _drop(table: Table) -> None:
    with table.update_schema() as change:
        change.delete_column("x")


def _drop_and_add(table: Table) -> None:
    _drop(table)
    with table.update_schema() as change:
        change.add_column("x", StringType())


def _swap(table: Table) -> None:
    with table.update_schema() as change:
        change.add_column("y", StringType())
    table.append(ROWS.append_column("y", pa.array(["v", "w"])))
    for old, new in (("x", "z"), ("y", "x"), ("z", "y")):
        with table.update_schema() as change:
            change.rename_column(old, new)


def _add(table: Table) -> None:
    with table.update_schema() as change:
        change.add_column("z", LongType())


@pytest.mark.parametrize("change", [_rename, _rename_inside, _drop, _drop_and_add, _swap, _add])
@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "added files"])
def test_columns_are_the_tables_whatever_older_files_call_them(
    catalog: Catalog, settings: Settings, tmp_path: Path, change: Callable[[Table], None], numbered: bool
) -> None:
    table = catalog.create_table("n.log", ROWS.schema)
    if numbered:
        table.append(ROWS)
    else:
        pq.write_table(ROWS, tmp_path / "own.parquet")
        table.add_files([str(tmp_path / "own.parquet")])
    change(table)
    assert _by_name(settings) == _sorted(table.scan().to_arrow().to_pylist())
    assert _by_name(settings, f"{settings.catalog.name}.n.log") == _by_name(settings)


@pytest.mark.parametrize(
    ("column", "by"),
    [("u", BucketTransform(4)), ("t", DayTransform()), ("t", IdentityTransform()), ("x", TruncateTransform(1))],
    ids=["bucket", "day", "time", "truncated"],
)
def test_what_a_table_is_partitioned_by_is_no_column(
    catalog: Catalog, settings: Settings, column: str, by: Transform[Any, Any]
) -> None:
    table = catalog.create_table("n.log", ROWS.schema)
    with table.update_spec() as change:
        change.add_field(column, by)
    table.append(ROWS)
    assert _by_name(settings) == _sorted(table.scan().to_arrow().to_pylist())


def test_names_that_are_no_table_and_tables_without_rows_are_told(catalog: Catalog, settings: Settings) -> None:
    catalog.create_table("n.log", ROWS.schema)
    with pytest.raises(InputError, match=r"n\.log holds no rows"):
        open_source("n.log", settings=settings)
    with pytest.raises(InputError, match="no file and no table nothing"):
        open_source("nothing", settings=settings)


def test_two_newest_metadata_files_of_a_folder_are_not_guessed_at(catalog: Catalog, tmp_path: Path) -> None:
    """The one that a writer left behind whose commit failed may be the younger one."""
    table = catalog.create_table("n.log", ROWS.schema)
    table.append(ROWS)
    folder = Path(table.location().removeprefix("file://"))
    files = sorted((folder / "metadata").glob("*.metadata.json"))
    shutil.copy(files[0], files[-1].with_name(f"{files[-1].name[:6]}ffff.metadata.json"))
    with pytest.raises(InputError, match=r"2 newest metadata files.*namespace\.table"):
        open_source(str(folder))
