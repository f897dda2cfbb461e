"""One description of a store reaches whatever opens it: logs, tables, lists, folders. It wants a session token."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import write_deltalake
from pyiceberg.catalog import load_catalog
from typer.testing import CliRunner

from dedup_storage.cli import app
from dedup_storage.config import Settings
from dedup_storage.errors import StorageError
from dedup_storage.lake.catalogs import open_lake
from dedup_storage.lake.folders import Store, child_folders, delete_folder, list_files, read_text, write_text
from dedup_storage.lake.stores import delta_options
from dedup_storage.sources.named import read_ids
from dedup_storage.sources.recognise.head import read_head
from dedup_storage.sources.source import open_source
from dedup_storage.synth.files import write_log
from dedup_storage.synth.params import SynthParams
from tests.servers.store import ObjectStore

BUCKET = "settings"


@pytest.fixture(scope="module")
def settings(object_store: ObjectStore) -> Settings:
    object_store.files.create_dir(BUCKET)
    catalog = {"properties": object_store.properties}
    return Settings.model_validate({"warehouse": f"s3://{BUCKET}/warehouse", "format": "delta", "catalog": catalog})


ROWS = pa.table({"user": [1, 1, 2], "item": ["a", "b", "c"]})


def lay_down(kind: str, store: ObjectStore, settings: Settings) -> str:
    """The rows as one kind of log; gives its address, under each of the names that a store's addresses have."""
    inner = f"{BUCKET}/{kind}"
    if kind == "parquet":
        pq.write_table(ROWS, f"{inner}/part-0.parquet", filesystem=store.files)
    elif kind in ("csv", "json"):
        with store.files.open_output_stream(f"{inner}/part-0.{kind}") as stream:
            if kind == "csv":
                pacsv.write_csv(ROWS, stream)
            else:
                stream.write("\n".join(json.dumps(row) for row in ROWS.to_pylist()).encode())
    elif kind == "delta":
        write_deltalake(f"s3://{inner}", ROWS, storage_options=delta_options(settings.catalog.properties))
    else:
        catalog = load_catalog("c", type="in-memory", warehouse=f"s3://{BUCKET}", **store.properties)
        catalog.create_namespace("n")
        table = catalog.create_table("n.t", ROWS.schema, location=f"s3://{inner}")
        table.append(ROWS)
    return f"{'s3a' if kind in ('csv', 'delta') else 's3'}://{inner}"


@pytest.mark.parametrize("kind", ["parquet", "csv", "json", "delta", "iceberg"])
def test_a_log_of_each_kind_is_read_by_the_settings(kind: str, object_store: ObjectStore, settings: Settings) -> None:
    place = lay_down(kind, object_store, settings)
    source = open_source(place, settings=settings)
    assert source.address.kind == kind
    assert pa.concat_tables(source.tables()).select(["user", "item"]).to_pylist() == ROWS.to_pylist()
    assert read_head(place, settings=settings).table.select(["user", "item"]).to_pylist() == ROWS.to_pylist()
    lacking = settings.catalog.model_copy(
        update={"properties": {k: v for k, v in object_store.properties.items() if k != "s3.session-token"}}
    )
    with pytest.raises((StorageError, OSError)):
        open_source(place, settings=settings.model_copy(update={"catalog": lacking}))


def test_lists_of_users_folders_and_small_files(object_store: ObjectStore, settings: Settings) -> None:
    store, root = settings.catalog.properties, f"s3://{BUCKET}/folder"
    write_text(f"{root}/a/users.txt", "7\n\n9\n", store)
    assert read_text(f"{root}/a/users.txt", store) == "7\n\n9\n"
    assert read_text(f"{root}/a/none.txt", store) is None
    assert list(read_ids(f"{root}/a/users.txt", Store(store))) == ["7", "9"]
    assert (child_folders(root, store), [f.base_name for f in list_files(root, store)]) == (["a"], ["users.txt"])
    delete_folder(root, store)
    assert list_files(root, store) == []
    assert object_store.files.get_file_info(f"{BUCKET}/folder/a/users.txt").type is pafs.FileType.NotFound
    assert open_lake(settings).datasets() == []
    assert object_store.secret not in f"{Store(store)!r} {settings!r} {settings}"


def test_commands_tell_of_a_log_at_a_store_what_they_tell_of_its_copy_here(
    object_store: ObjectStore, settings: Settings, tmp_path: Path
) -> None:
    made = write_log(SynthParams.preset("small", users=8, items=500), str(tmp_path / "raw"))
    pafs.copy_files(
        made.tables["log"], f"{BUCKET}/log", pafs.LocalFileSystem(), destination_filesystem=object_store.files
    )
    config = tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump({"catalog": {"properties": dict(settings.catalog.properties)}}))
    schema = ("--schema", made.schema, "--config", str(config), "--json")
    for command in (("validate",), ("estimate",), ("report", "--no-baselines", "--input")):
        told = []
        for place in (made.tables["log"], f"s3://{BUCKET}/log"):
            output = tmp_path / "told.json"
            done = CliRunner().invoke(app, [*command, place, *schema, str(output)])
            assert done.exit_code == 0, done.output
            found = json.loads(output.read_text().replace(place, "the log"))
            told.append({key: value for key, value in found.items() if key != "created"})
        assert told[0] == told[1]
