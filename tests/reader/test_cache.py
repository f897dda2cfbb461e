"""A cache between reader and store: what was read once is asked of no store again, and batches stay what they are."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyiceberg.manifest import clear_manifest_cache

from dedup_storage import faults
from dedup_storage.errors import ConfigError, StorageError
from dedup_storage.lake import retries
from dedup_storage.reader import DedupDataset, FileCache
from dedup_storage.reader.cache.spans import Spans
from tests.reader.cloud import Cloud, NoRetries, cloud, writing_settings
from tests.reader.lake import Lake, make_log
from tests.reader.reading import Delivered, contents, deliver

MB = 1 << 20
OPTIONS: dict[str, Any] = {"batch_size": 6, "splits": 2, "mix": 1}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset as a store would hold it: eight files of each table, of several row groups each."""
    place = tmp_path_factory.mktemp("cached")
    Lake(writing_settings(place)).write("shop", make_log(users=10, tokens=30), buckets=4, row_group_rows=4)
    return place


@pytest.fixture(scope="session")
def undisturbed(folder: Path) -> list[Delivered]:
    """An epoch from the folder."""
    return contents(DedupDataset("shop", writing_settings(folder), **OPTIONS))


@pytest.fixture(autouse=True)
def _as_a_process_that_begins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyIceberg keeps manifests in memory; attempts follow each other without pauses."""
    clear_manifest_cache()
    monkeypatch.setattr(retries, "_READ_WAIT", lambda state: 0)
    yield
    clear_manifest_cache()


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "cache", 64 * MB)


def opened(served: Cloud, cache: FileCache | None, **properties: str) -> DedupDataset:
    return DedupDataset("shop", served.settings(**properties), **OPTIONS, cache=cache)


def stored(served: Cloud) -> int:
    """Requests to the store since the last time."""
    return served.counted()[1].total()


def files_of(cache: FileCache) -> list[Path]:
    return [p for p in cache.folder.rglob("*") if p.is_file() and len(p.parent.name) == 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_second_epoch_asks_the_store_for_nothing(
    folder: Path, undisturbed: list[Delivered], cache: FileCache, workers: int
) -> None:
    with cloud(folder) as served:
        dataset = opened(served, cache)
        assert deliver(dataset, workers) == undisturbed
        assert stored(served) > 0
        before = cache.statistics
        assert before.misses > 0
        for epoch in (1, 0):
            dataset.set_epoch(epoch)
            delivered = deliver(dataset, workers)
        assert delivered == undisturbed
        assert stored(served) == 0
        after = cache.statistics
        assert (after.misses, after.fetched_bytes) == (before.misses, before.fetched_bytes)
        assert after.hits > before.hits
        assert after.read_bytes > before.read_bytes
        # Another process: its opening too, manifests and footers, and whatever the workers have fetched.
        clear_manifest_cache()
        again = opened(served, FileCache(cache.folder, 64 * MB))
        assert deliver(again, 2 - workers) == undisturbed
        assert stored(served) == 0
        assert again.plan.pins == dataset.plan.pins


def test_other_columns_share_what_is_kept(folder: Path, cache: FileCache) -> None:
    """Spans of a file are the same whatever is read of it."""
    with cloud(folder) as served:
        deliver(opened(served, cache))
        served.counted()
        some = DedupDataset("shop", served.settings(), columns=["user_id", "request_id", "item_id"], cache=cache)
        deliver(some)
        assert stored(served) == 0


def test_a_cold_epoch_asks_less_than_without(folder: Path, cache: FileCache) -> None:
    with cloud(folder) as served:
        deliver(opened(served, None))
        without = stored(served)
        clear_manifest_cache()
        deliver(opened(served, cache))
        assert stored(served) < without / 2


def test_ranks_share_a_folder(folder: Path, undisturbed: list[Delivered], cache: FileCache) -> None:
    with cloud(folder) as served:
        deliver(opened(served, cache))
        served.counted()
        for rank in range(2):
            mine = FileCache(cache.folder, 64 * MB)
            clear_manifest_cache()
            part = DedupDataset(
                "shop", served.settings(), **OPTIONS, rank=rank, world_size=2, ends="uneven", cache=mine
            )
            assert deliver(part) == undisturbed[rank::2]
        assert stored(served) == 0


def test_a_dataset_travels_to_another_process_with_its_cache(
    folder: Path, undisturbed: list[Delivered], cache: FileCache
) -> None:
    with cloud(folder) as served:
        dataset = opened(served, cache)
        assert deliver(dataset) == undisturbed
        served.counted()
        sent = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - made one line before
        assert deliver(sent) == undisturbed
        assert stored(served) == 0


def test_entries_that_are_damaged_are_fetched_again(
    folder: Path, undisturbed: list[Delivered], cache: FileCache
) -> None:
    with cloud(folder) as served:
        dataset = opened(served, cache)
        assert deliver(dataset) == undisturbed
        for number, file in enumerate(sorted(files_of(cache))):
            content = bytearray(file.read_bytes())
            content[number * 7919 % len(content)] ^= 0x55
            file.write_bytes(content[: len(content) // (1 + number % 2)])
        served.counted()
        clear_manifest_cache()
        assert deliver(opened(served, cache)) == undisturbed
        assert stored(served) > 0
        assert deliver(opened(served, cache)) == undisturbed
        assert stored(served) == 0


def test_a_file_that_was_replaced_is_never_mixed_with_what_is_kept_of_it(tmp_path: Path, cache: FileCache) -> None:
    """The same rows in another file: where any of it has to be fetched, all of it is read from the new one."""
    copied = tmp_path / "copied"
    Lake(writing_settings(copied)).write("shop", make_log(users=4, tokens=30), buckets=1, row_group_rows=4)
    undisturbed = contents(DedupDataset("shop", writing_settings(copied), **OPTIONS))
    with cloud(copied) as served:
        assert deliver(opened(served, cache)) == undisturbed
        for number, file in enumerate(sorted(copied.rglob("*.parquet"))):
            rows = pq.read_table(file)
            # Half of them are of another size than their table says: these are read as they are, and not kept.
            file.touch() if number % 2 else pq.write_table(rows, file, compression="none", row_group_size=3)
        for file in files_of(cache):
            if b"Parquet" not in file.read_bytes() and b"identity" not in file.read_bytes():
                file.unlink()
        served.counted()
        assert deliver(opened(served, cache)) == undisturbed
        assert stored(served) > 0
        served.counted()
        deliver(opened(served, cache))
        assert {name for name in served.counted()[1] if "metadata" in name} == set()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_that_fails_and_keys_that_end(
    folder: Path, undisturbed: list[Delivered], cache: FileCache, workers: int
) -> None:
    with cloud(folder) as served:
        served.store.every = 7
        properties = {"s3.retry-strategy-impl": f"{NoRetries.__module__}.{NoRetries.__name__}"}
        dataset = opened(served, cache, **properties)
        # Of a dataset this small the opening has read everything.
        cache.clear()
        served.keys.limit(8)
        assert deliver(dataset, workers) == undisturbed
        assert served.keys.refused > 0
        served.counted()
        assert deliver(dataset, workers) == undisturbed
        assert stored(served) == 0


def test_a_process_that_is_killed_while_it_fills(folder: Path, undisturbed: list[Delivered], cache: FileCache) -> None:
    """Another goes on from what is there, and the first one's half entry is no part of it."""
    with cloud(folder) as served:
        dataset = opened(served, cache)
        cache.clear()

        def killed() -> None:
            written = []

            def third(point: str) -> None:
                written.append(point)
                if written.count("cache:writing") == 3:
                    os.kill(os.getpid(), signal.SIGKILL)

            faults.watcher = third
            deliver(dataset)

        child = multiprocessing.get_context("fork").Process(target=killed)
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert (cache.folder / "filling").exists()
        assert len(files_of(cache)) == 2
        served.counted()
        assert deliver(dataset) == undisturbed
        filled = stored(served)
        dataset.set_epoch(1)
        deliver(dataset)
        assert filled > stored(served) == 0
        assert not (cache.folder / "filling").exists()


def test_a_file_that_is_missing_is_told_as_without_a_cache(tmp_path: Path, cache: FileCache) -> None:
    Lake(writing_settings(tmp_path)).write("shop", make_log(users=4), buckets=1)
    with cloud(tmp_path) as served:
        dataset = opened(served, cache)
        for file in tmp_path.glob("shop/impressions/**/*.parquet"):
            file.unlink()
        told = r"the file s3://logs/shop/impressions/.*\.parquet is missing"
        cache.clear()
        with pytest.raises(StorageError, match=told):
            deliver(dataset)


def test_a_cache_that_is_too_small_keeps_what_it_has(tmp_path: Path) -> None:
    log = make_log(users=16, requests_per_user=10, tokens=3_000, ragged=False)
    Lake(writing_settings(tmp_path)).write("shop", log, buckets=4)
    options: dict[str, Any] = {**OPTIONS, "batch_size": 100}
    with cloud(tmp_path) as served:
        wanted = deliver(DedupDataset("shop", served.settings(), **options))
        cache = FileCache(tmp_path / "small", MB)
        dataset = DedupDataset("shop", served.settings(), **options, cache=cache)
        requests = []
        for epoch in (1, 2, 0):
            served.counted()
            dataset.set_epoch(epoch)
            delivered = deliver(dataset)
            requests.append(stored(served))
            assert MB / 2 < cache.statistics.num_bytes <= MB
        assert delivered == wanted
        assert 0 < requests[2] <= requests[1] <= requests[0]
        clear_manifest_cache()
        deliver(DedupDataset("shop", served.settings(), **options))
        assert requests[2] < stored(served)


def test_what_is_no_cache_is_refused(lake: Lake) -> None:
    folder: Any = "/tmp/cache"  # noqa: S108 - not used
    with pytest.raises(ConfigError, match=r"expected FileCache\(folder, max_bytes\); got str"):
        DedupDataset("cache_tests", lake.settings, cache=folder)
    bounds: list[Any] = [float("nan"), float("inf"), 1e9, "200GB", True]
    for bound in bounds:
        with pytest.raises(ConfigError, match="no whole number"):
            FileCache(folder, bound)


def test_a_local_warehouse_needs_none(lake: Lake, cache: FileCache) -> None:
    lake.standing("cache_tests", make_log(users=3))
    dataset = DedupDataset("cache_tests", lake.settings, cache=cache)
    assert contents(dataset) == contents(DedupDataset("cache_tests", lake.settings))
    found = cache.statistics
    assert (found.hits, found.misses, found.num_bytes, found.hit_rate) == (0, 0, 0, 0.0)


def test_spans_cover_every_chunk_once(folder: Path) -> None:
    file = next(iter(folder.rglob("*.parquet")))
    metadata = pq.read_metadata(file)
    spans = Spans.of(metadata)
    assert spans.starts == sorted(spans.starts)
    assert all(a <= b for a, b in zip(spans.stops, spans.starts[1:], strict=False))
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(place)
            assert spans.at(chunk.data_page_offset) is not None
    assert spans.at(0) is None
    assert spans.next(0) == 4
    assert re.fullmatch(rb"PAR1", file.read_bytes()[:4])
