"""Delta on an object store: the toolkit's settings reach everything that opens tables and files. No server is asked."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from dedup_storage.errors import ConfigError, StorageError
from dedup_storage.lake.delta.open import load_delta
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.folders import open_folder
from dedup_storage.lake.stores import delta_options, hadoop_settings, of_hadoop
from dedup_storage.reader.decode.files import TableRef

PROPERTIES = {
    "s3.endpoint": "http://store.example.com:9000",
    "s3.access-key-id": "somebody",
    "s3.secret-access-key": "something",
    "s3.region": "eu-north-1",
}
PLACE = "s3a://logs/lake/clicks/requests"


def test_deltalake_is_given_the_store() -> None:
    assert delta_options(PROPERTIES) == {
        "AWS_ENDPOINT_URL": "http://store.example.com:9000",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "something",
        "AWS_REGION": "eu-north-1",
        "AWS_ALLOW_HTTP": "true",
    }
    assert "AWS_ALLOW_HTTP" not in delta_options({"s3.endpoint": "https://store.example.com"})
    assert delta_options({}) == {}


def test_a_token_that_deltalake_would_drop_is_refused() -> None:
    options = delta_options({"gcs.oauth2.token": "t"})
    with pytest.raises(ConfigError, match="deltalake takes no token"):
        load_delta("gs://logs/lake/clicks", options)


def test_a_container_of_azure_is_found_without_properties() -> None:
    """The account counted as a part of its name, and every listing was empty."""
    filesystem, path = open_folder("abfss://logs@account.dfs.core.windows.net/lake/clicks")
    assert (filesystem.type_name, path) == ("abfs", "logs/lake/clicks")


def test_messages_show_no_key_of_an_address() -> None:
    for place in ("odd://me:hunter2@logs/day", "https://logs/day?X-Amz-Signature=hunter2&X-Amz-Expires=9"):
        with pytest.raises(StorageError, match="cannot be opened") as caught:
            open_folder(place)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
def test_folders_and_small_files(scheme: str) -> None:
    filesystem, path = open_folder(f"{scheme}://logs/lake/clicks", PROPERTIES)
    assert isinstance(filesystem, pafs.S3FileSystem)
    assert (filesystem.region, path) == ("eu-north-1", "logs/lake/clicks")


def test_a_readers_worker_opens_data_files_by_the_same_settings() -> None:
    """It gets the catalog's properties; ``deltalake``'s own names say nothing to it."""
    ref = DeltaRef("requests", PLACE, {}, delta_options(PROPERTIES), PROPERTIES)
    io = TableRef(ref.name, ref.uri, dict(ref.store), {"user_id": (-1, pa.int64())}).file_io()
    opened = io.new_input(ref.place("user_bucket=1/part-0.parquet"))
    assert opened.location == f"{PLACE}/user_bucket=1/part-0.parquet"
    inner = io.lease().client.fs_by_scheme("s3a", "logs")  # type: ignore[attr-defined]
    assert inner.type_name == "s3"
    assert inner.region == "eu-north-1"


@pytest.mark.parametrize(
    ("place", "properties", "kind", "inner"),
    [
        ("gs://logs/day", {"gcs.oauth2.token": "t", "gcs.oauth2.token-expires-at": "1"}, "gcs", "logs/day"),
        ("gs://logs", {"gcs.oauth2.token": "t", "gcs.oauth2.token-expires-at": "1"}, "gcs", "logs"),
        (
            "abfss://logs@account.dfs.core.windows.net/day/part",
            {"adls.account-name": "account", "adls.account-key": "a2V5"},
            "abfs",
            "logs/day/part",
        ),
        ("s3n://logs/day", {"client.region": "eu-north-1"}, "s3", "logs/day"),
        ("/day", {"s3.region": "eu-north-1"}, "local", "/day"),
        ("file:///day", {"s3.region": "eu-north-1"}, "local", "/day"),
    ],
)
def test_addresses_of_each_kind_of_store(place: str, properties: dict[str, str], kind: str, inner: str) -> None:
    filesystem, path = open_folder(place, properties)
    assert (filesystem.type_name, path) == (kind, inner)


def test_a_property_that_does_not_fit_is_told() -> None:
    with pytest.raises(StorageError, match=r"abfss://.* cannot be opened: .*tenant_id"):
        open_folder("abfss://logs@account.dfs.core.windows.net/day", {"adls.client-id": "somebody"})


def test_one_description_reaches_each_client() -> None:
    whole = {**PROPERTIES, "s3.session-token": "for an hour", "s3.path-style-access": "true"}
    assert of_hadoop(hadoop_settings(whole)) == {**whole, "client.region": "eu-north-1"}
    assert hadoop_settings(whole)["fs.s3a.session.token"] == delta_options(whole)["AWS_SESSION_TOKEN"] == "for an hour"
    assert delta_options({"adls.account-name": "a", "adls.account-key": "k"}) == {
        "AZURE_STORAGE_ACCOUNT_NAME": "a",
        "AZURE_STORAGE_ACCOUNT_KEY": "k",
    }
