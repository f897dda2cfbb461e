"""What needs no Spark, on each pair of a catalog and a store: reader, vocabularies, lists, pins, renames and drops."""

from __future__ import annotations

import json

import pyarrow.fs as pafs
import pytest
from torch.utils.data import DataLoader

from dedup_storage import Lake as Connection
from dedup_storage.config import Settings, load_settings
from dedup_storage.reader import DedupDataset
from tests.reader.lake import Lake, make_log
from tests.reader.test_round_trip import compare
from tests.servers.store import ObjectStore


@pytest.fixture(params=["rest_catalog", "postgres"])
def settings(request: pytest.FixtureRequest, object_store: ObjectStore) -> Settings:
    """A REST catalog that vends the keys of its tables, which the settings lack; a PostgreSQL catalog with them."""
    environ = dict(request.getfixturevalue(request.param).environ)
    if request.param == "postgres":
        object_store.files.create_dir("without-spark")
        environ["DEDUP_STORAGE_WAREHOUSE"] = "s3://without-spark/warehouse"
        environ["DEDUP_STORAGE_CATALOG__PROPERTIES"] = json.dumps(object_store.properties)
    return load_settings(None, environ)


def test_a_dataset_is_read_listed_pinned_renamed_and_dropped(settings: Settings, object_store: ObjectStore) -> None:
    log = make_log()
    Lake(settings).write("before", log)
    lake = Connection(settings)
    assert lake.datasets() == ["before"]
    assert lake.describe("before").rows == {
        "requests": log.requests.num_rows,
        "impressions": log.impressions.num_rows,
    }
    # The vocabulary is stored beside the tables, and read again.
    made = lake.vocabulary("before", "category")
    assert sorted(made.decode(range(1, len(made))).to_pylist()) == sorted(set(log.impressions["category"].to_pylist()))
    assert lake.vocabulary("before", "category").digest == made.digest
    compare(log, DedupDataset("before", settings, batch_size=7))
    compare(log, DataLoader(DedupDataset("before", settings, batch_size=7), batch_size=None, num_workers=2))

    lake.rename("before", "after")
    assert (lake.datasets(), lake.describe("after").version) == (["after"], 1)
    compare(log, DedupDataset("after", settings, batch_size=7))
    dropped = lake.drop("after")
    assert lake.datasets() == []
    for folder in dropped.folders:
        found = object_store.files.get_file_info(pafs.FileSelector(folder.split("://")[1], allow_not_found=True))
        assert [entry for entry in found if entry.is_file] == []
