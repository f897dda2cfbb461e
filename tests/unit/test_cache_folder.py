"""A cache's folder: never over its bound, whole after kill -9, and nothing that is damaged is served."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from dedup_storage import faults
from dedup_storage.errors import ConfigError, StorageError
from dedup_storage.reader.cache import folder as folder_module
from dedup_storage.reader.cache.file_cache import FileCache
from dedup_storage.reader.cache.folder import CacheFolder
from dedup_storage.reader.cache.state import State, locked

PAGE = 64 << 10
MB = 1 << 20
SIZES = (0, 1, 5_000, PAGE - 1, PAGE, PAGE + 1, 200_000)


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def on_disk(place: Path) -> int:
    """Bytes that all files of a cache take, as the disk says; what it says of itself in three small ones aside."""
    found = 0
    for folder, _, files in os.walk(place):
        for file in files:
            if file not in ("lock", "state", "dedup_storage_cache"):
                try:
                    about = Path(folder, file).stat()
                except FileNotFoundError:
                    continue
                found += max(about.st_blocks * 512, about.st_size)
    return found


def files_of(place: Path) -> list[Path]:
    return [p for p in place.rglob("*") if p.is_file() and len(p.parent.name) == 2]


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    made = CacheFolder(tmp_path / "cache", 2 * MB)
    made.prepare()
    return made


def in_child(act: Callable[[], None]) -> int:
    """Do something in a process of its own; its exit status, negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=act)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


@contextmanager
def children(*acts: Callable[[], None]) -> Iterator[list[multiprocessing.process.BaseProcess]]:
    started = [multiprocessing.get_context("fork").Process(target=act, daemon=True) for act in acts]
    for child in started:
        child.start()
    try:
        yield list(started)
    finally:
        for child in started:
            child.kill()
            child.join()


@pytest.mark.parametrize("size", SIZES)
def test_every_part_of_an_entry_is_what_was_added(cache: CacheFolder, size: int) -> None:
    payload = content("a", size)
    assert cache.read("a") is None
    assert cache.add("a", payload)
    assert cache.add("a", payload)
    assert cache.read("a") == payload
    edges = sorted({min(max(e, 0), size) for e in (0, 1, PAGE - 1, PAGE, PAGE + 1, size - 1, size)})
    for start in edges:
        for stop in edges:
            if start <= stop:
                assert cache.read("a", start, stop) == payload[start:stop]
    assert cache.num_bytes() == on_disk(cache.path)


@pytest.mark.parametrize("place", [0, 5, 20, 27, 30, 41, 50, 60, 4_000, 100_000, -1])
def test_a_damaged_entry_is_not_served_and_goes(cache: CacheFolder, place: int) -> None:
    cache.add("a", content("a", 200_000))
    (file,) = files_of(cache.path)
    damaged = bytearray(file.read_bytes())
    damaged[place] ^= 1
    file.write_bytes(damaged)
    assert cache.read("a") is None
    assert files_of(cache.path) == []
    assert cache.add("a", content("a", 200_000))
    assert cache.read("a") == content("a", 200_000)


@pytest.mark.parametrize("left", [0, 10, 44, 1_000, 150_000, 200_043])
def test_an_entry_that_was_cut_off_is_not_served(cache: CacheFolder, left: int) -> None:
    cache.add("a", content("a", 200_000))
    os.truncate(files_of(cache.path)[0], left)
    assert cache.read("a", 0, 10) is None
    assert files_of(cache.path) == []


def test_an_entry_under_another_name_and_one_of_zeros_are_not_served(cache: CacheFolder) -> None:
    cache.add("a", content("a", 5_000))
    (first,) = files_of(cache.path)
    cache.add("b", content("b", 5_000))
    (second,) = set(files_of(cache.path)) - {first}
    second.write_bytes(first.read_bytes())
    assert cache.read("b") is None
    # As a machine leaves it that lost its power: the length is there, the content is not.
    first.write_bytes(bytes(first.stat().st_size))
    assert cache.read("a") is None


def test_damage_is_found_where_it_is_read(cache: CacheFolder) -> None:
    payload = content("a", 4 * PAGE)
    cache.add("a", payload)
    (file,) = files_of(cache.path)
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert cache.read("a", 10, PAGE) == payload[10:PAGE]
    assert cache.read("a", 10, 3 * PAGE + 1) is None


def fill(cache: CacheFolder, seed: int, entries: int) -> None:
    """Add entries and read them; what is read is what was added. Others wait while one looks at the disk."""

    def look(point: str) -> None:
        assert on_disk(cache.path) <= cache.max_bytes, point

    faults.watcher = look
    dice = random.Random(seed)
    for _ in range(entries):
        name, size = f"{dice.randrange(60)}", 0
        size = random.Random(f"size {name}").randrange(200_000)
        found = cache.read(name)
        assert found is None or found == content(name, size)
        if found is None and cache.admits(size):
            cache.add(name, content(name, size))
        if dice.randrange(50) == 0:
            cache.remove(name)


def test_many_threads_and_processes_never_fill_it_over_its_bound(cache: CacheFolder) -> None:
    """Of some six megabytes that are wanted two fit; entries of any time may go."""
    free = CacheFolder(cache.path, cache.max_bytes, since=time.time() + 3600)

    def with_threads(first: int) -> None:
        with ThreadPoolExecutor(3) as pool:
            for filled in [pool.submit(fill, free, seed, 100) for seed in range(first, first + 3)]:
                filled.result()

    with children(partial(with_threads, 0), partial(with_threads, 3)) as started:
        for child in started:
            child.join()
        assert [child.exitcode for child in started] == [0, 0]
    assert on_disk(cache.path) > cache.max_bytes / 2
    state = State.load(cache.path / "state")
    assert state is not None
    assert state.num_bytes >= on_disk(cache.path) == cache.num_bytes()


@pytest.mark.parametrize("point", ["cache:counted", "cache:writing", "cache:written"])
def test_a_process_that_is_killed_while_it_adds(
    cache: CacheFolder, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.add("a", content("a", 500_000))

    def killed() -> None:
        os.environ[faults.VARIABLE] = point
        cache.add("b", content("b", 700_000))

    monkeypatch.delenv(faults.VARIABLE, raising=False)
    assert in_child(killed) == -signal.SIGKILL
    assert cache.read("a") == content("a", 500_000)
    assert cache.read("b") is None
    assert cache.add("b", content("b", 700_000))
    # What the killed one had counted is found again when the room is needed.
    later = CacheFolder(cache.path, cache.max_bytes, since=time.time() + 3600)
    assert later.add("c", content("c", 900_000))
    assert [later.read(n) is not None for n in "abc"] == [False, True, True]
    assert on_disk(cache.path) <= cache.max_bytes


def test_processes_that_are_killed_at_any_moment(cache: CacheFolder) -> None:
    free = CacheFolder(cache.path, cache.max_bytes, since=time.time() + 3600)
    for turn in range(8):
        with children(partial(fill, free, turn, 10_000), partial(fill, free, turn + 100, 10_000)) as started:
            time.sleep(0.1 + random.Random(turn).random() / 10)
            assert all(child.is_alive() for child in started)
        assert in_child(partial(fill, free, turn + 200, 5)) == 0
        state = State.load(cache.path / "state")
        assert state is not None
        assert state.num_bytes >= on_disk(cache.path)
    assert free.clear() > 0
    assert on_disk(cache.path) == 0


def test_what_was_used_least_recently_goes_first_and_nothing_used_since(cache: CacheFolder) -> None:
    for place, name in enumerate("abcd"):
        cache.add(name, content(name, 450_000))
        file = next(iter(sorted(files_of(cache.path), key=lambda f: -f.stat().st_mtime_ns)))
        os.utime(file, (1_000 + place, 1_000 + place))
    # The counts are from before.
    (cache.path / "state").unlink()
    reader = CacheFolder(cache.path, cache.max_bytes, since=time.time() - 5)
    assert reader.read("a", 0, 1) is not None
    assert reader.add("e", content("e", 450_000))
    assert [reader.read(n) is not None for n in "abcde"] == [True, False, True, True, True]
    # All of it was used by this reader: what does not fit is read from the store, again and again.
    assert not reader.add("f", content("f", 450_000))
    assert not reader.admits(450_000)
    assert reader.admits(1_000)
    other = CacheFolder(cache.path, cache.max_bytes, since=time.time() + 5)
    assert other.admits(450_000)
    assert other.add("f", content("f", 450_000))
    assert on_disk(cache.path) <= cache.max_bytes


def test_an_entry_above_the_bound_is_not_kept(cache: CacheFolder) -> None:
    cache.add("a", content("a", 100))
    assert not cache.admits(3 * MB)
    assert not cache.add("b", bytes(3 * MB))
    assert cache.read("a") == content("a", 100)


def test_a_lower_bound_counts_from_the_opening_on(cache: CacheFolder) -> None:
    for name in "abcd":
        cache.add(name, content(name, 450_000))
    CacheFolder(cache.path, MB).prepare()
    assert 0 < on_disk(cache.path) <= MB


def test_counts_that_are_lost_or_damaged_are_made_anew(cache: CacheFolder) -> None:
    cache.add("a", content("a", 1_500_000))
    state = cache.path / "state"
    for left in (None, b"", bytes(36), b"x" * 36):
        state.unlink()
        if left is not None:
            state.write_bytes(left)
        later = CacheFolder(cache.path, cache.max_bytes)
        assert not later.add("b", content("b", 800_000))
        assert later.read("a", 0, 1) is not None


def test_a_folder_that_was_removed_is_made_again(cache: CacheFolder) -> None:
    cache.add("a", content("a", 1_500_000))
    for file in sorted(cache.path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    cache.path.rmdir()
    assert cache.read("a") is None
    assert cache.add("b", content("b", 1_500_000))
    assert cache.read("b") == content("b", 1_500_000)


def test_others_that_hold_the_lock_for_long_are_not_waited_for(
    cache: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "_WAIT", 0.02)
    cache.add("a", b"x")
    with locked(cache.path / "lock", 1):
        assert not cache.add("b", b"y")
        assert cache.read("a") == b"x"
    assert cache.add("b", b"y")


def test_folders_that_are_no_cache_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"mine cannot be used: it holds other files, thesis.txt among them"):
        FileCache(tmp_path / "mine", 2 * MB)
    with pytest.raises(ConfigError, match=r"thesis.txt/cache cannot be used: .*expected a folder on a local disk"):
        FileCache(tmp_path / "mine" / "thesis.txt" / "cache", 2 * MB)
    with pytest.raises(ConfigError, match=r"expected 1,048,576 bytes or more; got 1,000"):
        FileCache(tmp_path / "small", 1_000)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dedup_storage_cache").write_text("2\n")
    with pytest.raises(ConfigError, match="another release"):
        FileCache(tmp_path / "other", 2 * MB)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_a_disk_that_takes_nothing_more_is_told_once(tmp_path: Path) -> None:
    """By a limit on the size of files, which fails as a full disk does."""
    cache = FileCache(tmp_path / "cache", 2 * MB)
    assert cache.add("a", content("a", 1_000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.warns(UserWarning, match=r"cannot be written, so nothing more is kept there"):
            assert not cache.add("b", content("b", 100_000))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not cache.add("c", content("c", 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert cache.read("a") == content("a", 1_000)
    assert not cache.admits(10)
    state = State.load(cache.folder / "state")
    assert state is not None
    assert state.num_bytes == on_disk(cache.folder) == 4096
    # A dataset that is opened later tries again.
    assert FileCache(cache.folder, 2 * MB).add("c", content("c", 10))


def test_everything_is_removed_and_who_reads_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FileCache(tmp_path / "cache", 2 * MB)
    cache.add("a", content("a", 100_000))
    assert cache.clear() == on_disk(cache.folder) + 102_400
    assert (cache.read("a"), cache.statistics.num_bytes) == (None, 0)
    assert cache.add("a", content("a", 100_000))
    monkeypatch.setattr(folder_module, "_PATIENCE", 0.02)
    with (
        locked(cache.folder / "lock", 1),
        pytest.raises(StorageError, match=r"held its lock .* End who reads"),
    ):
        cache.clear()
