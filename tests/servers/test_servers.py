"""The servers are what they say: they let in whom they should, and nobody else."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import OAuthError
from sqlalchemy.exc import OperationalError

from dedup_storage.config import Settings, load_settings
from dedup_storage.lake.iceberg.catalog import pyiceberg_properties
from tests.servers.postgres import Postgres
from tests.servers.rest import BUCKET, RestCatalog
from tests.servers.store import ObjectStore


def catalog_of(settings: Settings) -> Catalog:
    return load_catalog(settings.catalog.name, **pyiceberg_properties(settings))


def test_a_store_wants_the_session_token(object_store: ObjectStore) -> None:
    object_store.files.create_dir("some-bucket")
    without = pafs.S3FileSystem(
        endpoint_override=object_store.endpoint, access_key=object_store.key, secret_key=object_store.secret,
        region=object_store.place["s3.region"],
    )  # fmt: skip
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        without.get_file_info("some-bucket/x")
    assert object_store.files.get_file_info("some-bucket/x").type is pafs.FileType.NotFound


def test_a_rest_catalog_knows_its_client_and_vends_the_keys_of_its_tables(
    rest_catalog: RestCatalog, object_store: ObjectStore
) -> None:
    settings = load_settings(None, rest_catalog.environ)
    assert not set(settings.catalog.properties) & set(object_store.keys)
    catalog = catalog_of(settings)
    catalog.create_namespace("vended")
    table = catalog.create_table("vended.t", pa.schema([("a", pa.int64())]))
    table.append(pa.table({"a": [1, 2]}))
    again = catalog.load_table("vended.t")
    assert {key: again.io.properties[key] for key in object_store.keys} == object_store.keys
    assert again.location() == f"s3://{BUCKET}/tables/vended/t"
    assert again.scan().to_arrow()["a"].to_pylist() == [1, 2]
    stranger = load_settings(None, {**rest_catalog.environ, "DEDUP_STORAGE_CATALOG__CREDENTIAL": "a client:guessed"})
    with pytest.raises(OAuthError):
        catalog_of(stranger)


def test_a_postgresql_catalog_with_a_password_of_many_characters(postgres: Postgres) -> None:
    settings = load_settings(None, postgres.environ)
    assert catalog_of(settings).list_namespaces() == []
    with pytest.raises(OperationalError, match="password"):
        catalog_of(load_settings(None, {**postgres.environ, "DEDUP_STORAGE_CATALOG__PASSWORD": "wrong"}))
