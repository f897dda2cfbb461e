"""Credentials that end: when new ones are asked for, how often, and what is done where there are none."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from dedup_storage.config import CatalogSettings, CatalogType, Settings
from dedup_storage.errors import StorageError
from dedup_storage.lake import credentials, retries
from dedup_storage.lake.credentials import FileAccess
from dedup_storage.lake.iceberg.catalog import spark_catalog_conf
from dedup_storage.lake.retries import is_refusal, is_transient

END = "s3.session-token-expires-at-ms"


@dataclass
class Clock:
    """The time, as it is set."""

    now: float = 1_000_000.0

    def time(self) -> float:
        return self.now

    def ms(self, seconds: float) -> str:
        return str(int((self.now + seconds) * 1000))


@dataclass
class Catalog:
    """An origin that gives keys by number, or fails."""

    clock: Clock
    seconds: float | None = 3600.0
    given: int = 0
    error: Exception | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)

    @property
    def remedy(self) -> str:
        return "Ask the catalog."

    def load(self, properties: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.set()
        self.gate.wait(5)
        if self.error is not None:
            raise self.error
        self.given += 1
        end = {} if self.seconds is None else {END: self.clock.ms(self.seconds)}
        return {**properties, "key": self.given, **end}


@dataclass(frozen=True)
class Client:
    """What reads with one key."""

    key: int


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(credentials, "time", made)
    monkeypatch.setattr(retries, "_READ_WAIT", lambda state: 0)
    return made


def access(catalog: Catalog | None, **properties: Any) -> FileAccess:
    if catalog is not None:
        catalog.gate.set()
    made: Any = lambda found: Client(found["key"])  # noqa: E731
    return FileAccess(made, {"key": 0, **properties}, catalog)


def key(files: FileAccess) -> int:
    client: Any = files.lease().client
    return int(client.key)


def test_keys_are_renewed_a_minute_before_they_end(clock: Clock) -> None:
    files = access(Catalog(clock), **{END: clock.ms(3600)})
    seen = []
    for _ in range(8):
        seen.append((clock.now - 1_000_000, key(files)))
        clock.now += 1775
    assert [k for _, k in seen] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_keys_of_seconds_are_renewed_in_their_last_quarter(clock: Clock) -> None:
    files = access(Catalog(clock, seconds=20), **{END: clock.ms(20)})
    found = []
    for _ in range(5):
        found.append(key(files))
        clock.now += 7
    assert found == [0, 0, 0, 1, 1]


def test_many_threads_ask_once(clock: Clock) -> None:
    catalog = Catalog(clock)
    files = access(catalog, **{END: clock.ms(100)})
    assert key(files) == 0
    clock.now += 80
    catalog.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(key, files)
        assert catalog.asked.wait(5)
        # Those at hand are good for 20 s, so nobody waits for the one that asks.
        assert [f.result(5) for f in [pool.submit(key, files) for _ in range(6)]] == [0] * 6
        catalog.gate.set()
        assert first.result(5) == 1
    assert (key(files), catalog.given) == (1, 1)


def test_a_catalog_that_is_away_is_asked_again_before_the_end(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    catalog = Catalog(clock, error=ConnectionError("the catalog does not answer"))
    files = access(catalog, **{END: clock.ms(400)})
    assert key(files) == 0
    clock.now += 350
    with caplog.at_level(logging.WARNING):
        assert [key(files), key(files)] == [0, 0]
    assert caplog.messages == ["The credentials at hand are good for 50 s more: the catalog does not answer"]
    catalog.error = None
    clock.now += 20
    assert key(files) == 0
    clock.now += 20
    assert key(files) == 1


def test_a_catalog_that_stays_away_past_the_end_is_told(clock: Clock) -> None:
    files = access(Catalog(clock, error=ConnectionError("the catalog does not answer")), **{END: clock.ms(400)})
    assert key(files) == 0
    clock.now += 401
    with pytest.raises(
        StorageError, match=r"storage failed 5 times while a file was read: the catalog does not answer"
    ):
        files.read("a file was read", lambda client: client)


def test_a_catalog_that_repeats_what_has_ended_is_not_asked_forever(clock: Clock) -> None:
    catalog = Catalog(clock, seconds=-5)
    files = access(catalog, **{END: clock.ms(10)})
    for _ in range(20):
        key(files)
        clock.now += 10
    assert catalog.given == 1


def test_a_refused_read_is_made_again_with_new_keys(clock: Clock) -> None:
    catalog = Catalog(clock, seconds=None)
    files = access(catalog)
    used: list[int] = []

    def read(client: Any) -> int:
        used.append(client.key)
        if client.key < 2:
            raise OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body.")
        return int(client.key)

    assert files.read("a file was read", read) == 2
    assert (used, catalog.given) == ([0, 1, 2], 2)


def test_a_read_that_is_refused_with_new_keys_too_is_told(clock: Clock) -> None:
    catalog = Catalog(clock, seconds=None)

    def read(client: Any) -> int:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(StorageError, match=r"storage refused access while a file was read: .* Ask the catalog\."):
        access(catalog).read("a file was read", read)
    assert catalog.given == 2
    with pytest.raises(StorageError, match=r"keys s3\.access-key-id"):
        access(None).read("a file was read", read)


def test_keys_that_are_configured_are_never_renewed(clock: Clock) -> None:
    files = access(None, **{END: clock.ms(10)})
    clock.now += 100
    assert files.lease() is files.lease()
    assert key(files) == 0


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (
            "When reading information for key 'a' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject operation",
            True,
        ),
        ("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body.", True),
        ("AWS Error INVALID_ACCESS_KEY_ID during GetObject operation: no", True),
        ("AWS Error UNKNOWN (HTTP status 403) during GetObject operation: ExceptionName: ExpiredToken", True),
        ("google::cloud::Status(PERMISSION_DENIED: no)", True),
        ("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body.", False),
        ("When reading information for key 'ACCESS_DENIED/ExpiredToken.parquet' in bucket 'b': curlCode: 56", False),
        ("AWS Error SLOW_DOWN during GetObject operation: no", False),
    ],
)
def test_a_refusal_is_told_from_a_failure(text: str, refused: bool) -> None:
    error = OSError(text)
    assert (is_refusal(error), is_transient(error)) == (refused, not refused)


def test_sparks_file_io_is_given_what_renews_its_keys() -> None:
    """Iceberg's own client does it; the toolkit hands on what it is told of."""
    name, value = "client.refresh-credentials-endpoint", "v1/namespaces/shop/tables/requests/credentials"
    catalog = CatalogSettings(type=CatalogType.REST, uri="http://catalog.example.com", properties={name: value})
    assert (
        spark_catalog_conf(Settings(warehouse="s3://logs", catalog=catalog))[f"spark.sql.catalog.lake.{name}"] == value
    )
