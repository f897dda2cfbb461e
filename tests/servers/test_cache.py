"""A reader's cache before a real S3 store: Iceberg and Delta, later epochs, and an object that was replaced."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from dedup_storage.config import CatalogSettings, Settings
from dedup_storage.reader import DedupBatch, DedupDataset, FileCache
from tests.compatibility.archive import unpack
from tests.compatibility.contents import KINDS
from tests.reader.lake import Lake, make_log
from tests.servers.store import ObjectStore

BUCKET = "cached"
ARCHIVE = Path(__file__).parents[1] / "compatibility" / "c49b8a4.tar.gz"
OPTIONS: dict[str, Any] = {"batch_size": 3, "splits": 2, "ends": "uneven"}


@pytest.fixture(scope="session")
def delta(tmp_path_factory: pytest.TempPathFactory, object_store: ObjectStore) -> tuple[str, Settings, Settings]:
    """The kept lake's Delta tables, in a folder and in a bucket."""
    place = unpack(ARCHIVE, tmp_path_factory.mktemp("cached"))
    object_store.files.create_dir(BUCKET)
    pafs.copy_files(str(place / "delta_split"), f"{BUCKET}/delta_split", destination_filesystem=object_store.files)
    store = CatalogSettings(properties=object_store.properties)
    there = Settings(warehouse=f"s3://{BUCKET}", format="delta", catalog=store)
    return "delta_split", KINDS["delta_split"].settings(Settings(), place), there


@pytest.fixture(scope="session")
def iceberg(tmp_path_factory: pytest.TempPathFactory, object_store: ObjectStore) -> tuple[str, Settings, Settings]:
    """One log in a folder and in a bucket."""
    object_store.files.create_dir(f"{BUCKET}-too")
    place = tmp_path_factory.mktemp("catalog")
    # The embedded catalog, in a folder; its tables in the bucket.
    store = CatalogSettings(properties={**object_store.properties, "warehouse": f"s3://{BUCKET}-too"})
    here, there = Settings(warehouse=str(place / "here")), Settings(warehouse=str(place / "there"), catalog=store)
    for settings in (here, there):
        Lake(settings).write("shop", make_log(users=6), buckets=2, row_group_rows=4)
    return "shop", here, there


def contents(batches: Iterable[DedupBatch]) -> list[Any]:
    return [(b.progress.index, *(t.to_pylist() for t in b.to_arrow())) for b in batches]


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["iceberg", "delta"])
def test_later_epochs_and_other_readers_fetch_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, workers: int
) -> None:
    name, here, there = request.getfixturevalue(kind)
    wanted = contents(DedupDataset(name, here, **OPTIONS))
    dataset = DedupDataset(name, there, **OPTIONS, cache=FileCache(tmp_path / "cache", 1 << 26))
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=workers)
    assert contents(loader) == wanted
    again = FileCache(tmp_path / "cache", 1 << 26)
    assert contents(DedupDataset(name, there, **OPTIONS, cache=again)) == wanted
    found = again.statistics
    assert (found.misses, found.fetched_bytes) == (0, 0)
    assert found.hits > 0


def test_an_object_of_the_same_size_that_was_put_in_anothers_place(
    iceberg: tuple[str, Settings, Settings], object_store: ObjectStore, tmp_path: Path
) -> None:
    """The store's tag of it is another: nothing of the old one is served beside anything of the new one."""
    name, _, there = iceberg
    cache = FileCache(tmp_path / "cache", 1 << 26)
    dataset = DedupDataset(name, there, **OPTIONS, cache=cache)
    wanted = contents(dataset)
    unit = dataset.plan.units.planned[0]
    address = unit.file.path.removeprefix("s3://")
    with object_store.files.open_input_file(address) as old:
        content = old.readall()
    column = pq.read_metadata(io.BytesIO(content)).row_group(0).column(0)
    # One byte more in the name of who wrote it: the same rows, the same size, another object.
    other = content.replace(b"parquet-cpp-arrow", b"parquet-cpp-Arrow", 1)
    assert len(other) == len(content) != 0 < column.total_compressed_size
    with object_store.files.open_output_stream(address) as new:
        new.write(other)
    footers = [p for p in cache.folder.rglob("*") if p.is_file() and b"parquet-cpp" in p.read_bytes()]
    for file in {p for p in cache.folder.rglob("*") if p.is_file() and len(p.parent.name) == 2} - set(footers):
        file.unlink()
    before = cache.statistics.fetched_bytes
    assert contents(DedupDataset(name, there, **OPTIONS, cache=cache)) == wanted
    assert cache.statistics.fetched_bytes - before > len(content) / 2
    kept = [p.read_bytes() for p in cache.folder.rglob("*") if p.is_file()]
    assert sum(b"parquet-cpp-Arrow" in k for k in kept) == 1
