"""Keys that end in the middle of an epoch: a catalog vends them, a store refuses old ones, and no batch is lost."""

from __future__ import annotations

import pickle
import re
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader

from dedup_storage.errors import StorageError
from dedup_storage.lake import credentials, retries
from dedup_storage.reader import DedupDataset, open_vocabulary
from dedup_storage.report.parquet.footers import read_footer
from dedup_storage.report.parquet.iceberg import table_files
from tests.reader.cloud import Cloud, Keys, NoRetries, cloud, writing_settings
from tests.reader.lake import Lake, make_log
from tests.reader.reading import Delivered, content, contents, deliver

OPTIONS: dict[str, Any] = {"batch_size": 6, "splits": 2, "mix": 1, "columns": ["item_id", "history"]}
OPTIONS |= {"prefetch": 1, "threads": 1}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset as a store would hold it: eight files of each table."""
    place = tmp_path_factory.mktemp("cloud")
    Lake(writing_settings(place)).write("shop", make_log(users=10), buckets=4)
    return place


@pytest.fixture(scope="session")
def undisturbed(folder: Path) -> list[Delivered]:
    """An epoch from the folder."""
    return contents(DedupDataset("shop", writing_settings(folder), **OPTIONS))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between attempts."""
    monkeypatch.setattr(retries, "_READ_WAIT", lambda state: 0)


def opened(served: Cloud, **properties: str) -> DedupDataset:
    return DedupDataset("shop", served.settings(**properties), **OPTIONS)


def failure(dataset: DedupDataset, workers: int = 0) -> str:
    """What an epoch ends with; its workers are gone before the servers are."""
    with pytest.raises(StorageError) as told:
        deliver(dataset, workers)
    # A loader that is found as garbage, in the frames of its error, ends its workers some seconds later.
    traceback.clear_frames(told.tb)
    return str(told.value)


def slow_epoch(served: Cloud, workers: int, seconds: float) -> Iterator[Delivered]:
    """An epoch whose trainer takes some time for each batch."""
    for batch in DataLoader(opened(served), batch_size=None, num_workers=workers):
        yield content(batch)
        time.sleep(seconds)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("workers", "endpoint"), [(0, True), (0, False), (2, True)])
def test_keys_that_end_without_a_word(folder: Path, undisturbed: list[Delivered], workers: int, endpoint: bool) -> None:
    """The catalog does not say when: the store refuses after 8 requests, and the read is made with new ones."""
    with cloud(folder, endpoint=endpoint) as served:
        dataset = opened(served)
        served.keys.limit(8)
        assert deliver(dataset, workers) == undisturbed
        assert len(served.keys.given) > 8
        assert ("credentials" in served.catalog.counts) == endpoint


def test_keys_that_are_renewed_before_they_end(folder: Path, undisturbed: list[Delivered]) -> None:
    with cloud(folder, Keys(seconds=1.5)) as served:
        begun = time.time()
        assert list(slow_epoch(served, workers=2, seconds=0.1)) == undisturbed
        assert time.time() - begun > 2 * served.keys.seconds
        # At opening one for each table, later at least one for each table in each worker.
        assert len(served.keys.given) >= 2 + 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_keys_of_twenty_seconds_over_two_minutes(folder: Path, undisturbed: list[Delivered], workers: int) -> None:
    with cloud(folder, Keys(seconds=20)) as served:
        begun = time.time()
        assert list(slow_epoch(served, workers, 130 / len(undisturbed))) == undisturbed
        assert time.time() - begun > 120
        assert served.keys.refused == 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("workers", [0, 2])
def test_every_fiftieth_request_fails(folder: Path, undisturbed: list[Delivered], workers: int) -> None:
    with cloud(folder) as served:
        served.store.every, served.catalog.every = 50, 2
        dataset = opened(served, **{"s3.retry-strategy-impl": f"{__name__}.{NoRetries.__name__}"})
        assert served.store.counts.total() > 60
        served.counted()
        assert deliver(dataset, workers) == undisturbed
        assert served.store.counts.total() > 60


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("workers", [0, 2])
def test_keys_that_never_work(folder: Path, workers: int) -> None:
    told = (
        r"storage refused access while the file s3://logs/shop/\w+/.* was read: .*gives out now for the table "
        r"shop\.\w+ of the catalog lake: let it give ones that may read its files"
    )
    with cloud(folder) as served:
        served.keys.work = False
        with pytest.raises(StorageError, match=told):
            opened(served)
        served.keys.work = True
        dataset = opened(served)
        served.keys.work = False
        assert re.search(told, failure(dataset, workers))


@pytest.mark.usefixtures("quick")
def test_a_catalog_that_gives_no_more_keys(folder: Path) -> None:
    with cloud(folder) as served:
        dataset = opened(served)
        served.keys.limit(8)
        served.catalog.closed = True
        told = r"no new credentials for the table shop\.\w+ of the catalog lake: NotAuthorizedException"
        assert re.search(told, failure(dataset))
        with pytest.raises(StorageError, match=r"the catalog lake cannot be read: NotAuthorizedException.*__TOKEN"):
            opened(served)


@pytest.mark.usefixtures("quick")
def test_a_vocabulary_is_stored_and_read_with_the_keys_of_its_table(folder: Path) -> None:
    with cloud(folder) as served:
        built = open_vocabulary("shop", "category", served.settings())
        assert len(list(folder.glob("shop/requests/_vocabularies/category/*.arrow"))) == 1
        assert open_vocabulary("shop", "category", served.settings()).digest == built.digest
    assert open_vocabulary("shop", "category", writing_settings(folder), store=False).digest == built.digest


def test_a_report_reads_footers_with_renewed_keys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cloud(folder, Keys(seconds=100)) as served:
        listed = table_files(Lake(served.settings()).table("shop", "requests"), "requests")
        served.keys.end()
        monkeypatch.setattr(credentials, "time", SimpleNamespace(time=lambda: time.time() + 90))
        assert sum(read_footer(file, listed.resolve).rows for file in listed.files) == 50
        assert (len(served.keys.given), served.keys.refused) == (2, 0)


@pytest.mark.usefixtures("quick")
def test_a_process_gets_properties_and_no_client(folder: Path, undisturbed: list[Delivered]) -> None:
    with cloud(folder) as served:
        dataset = opened(served)
        served.keys.limit(8)
        ref = dataset.plan.source.requests
        assert ref.file_io().lease().client is ref.file_io().lease().client
        assert all(isinstance(value, str) for value in ref.file_io().properties.values())
        assert "token of" not in repr(ref)
        sent = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - made one line before
        assert sent.plan.source.requests.file_io()._held is None
        assert contents(sent) == undisturbed
