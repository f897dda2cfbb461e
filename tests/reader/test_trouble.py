"""Storage that fails for a moment: an epoch is the same, whichever of its reads failed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pyiceberg.io.pyarrow import PyArrowFile

from dedup_storage.errors import StorageError
from dedup_storage.lake import retries
from dedup_storage.reader import DedupDataset
from tests.reader.lake import Lake, make_log
from tests.reader.reading import Delivered, contents, deliver

NETWORK = "AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 56, for key 'd/part-0.parquet'"
OPTIONS: dict[str, Any] = {"batch_size": 5, "shuffle": True, "splits": 2, "columns": ["item_id"]}


class Storage:
    """Files whose reads are counted, and fail where it is asked for.

    Attributes:
        failing: Numbers of the reads that fail; 1 is the next.
        reads: Reads so far.
        places: Reads so far of each file.
    """

    def __init__(self) -> None:
        self.failing: set[int] = set()
        self.reads = 0
        self.places: Counter[str] = Counter()
        self.error: Exception = OSError(NETWORK)

    def forget(self, *failing: int) -> None:
        self.failing, self.reads, self.places = set(failing), 0, Counter()


class Reads:
    """One open file."""

    closed = False

    def __init__(self, storage: Storage, place: str, stream: Any) -> None:
        self._storage, self._place, self._stream = storage, place, stream

    def read(self, size: int = -1) -> bytes:
        self._storage.reads += 1
        self._storage.places[self._place] += 1
        if self._storage.reads in self._storage.failing:
            raise self._storage.error
        return bytes(self._stream.read(size if size >= 0 else None))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> Reads:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stream.close()


@pytest.fixture
def storage(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """What the reader reads from, without pauses between attempts."""
    lake.standing(
        "trouble", make_log(users=6, requests_per_user=4), buckets=2, row_group_rows=8, files=2, cut="requests"
    )
    made, opened = Storage(), PyArrowFile.open
    monkeypatch.setattr(
        PyArrowFile, "open", lambda file, seekable=True: Reads(made, file.location, opened(file, seekable))
    )
    monkeypatch.setattr(retries, "_READ_WAIT", lambda state: 0)
    return made


def epoch(lake: Lake, workers: int = 0, **options: Any) -> list[Delivered]:
    dataset = DedupDataset("trouble", lake.settings, **OPTIONS, **options)
    return contents(dataset) if workers == 0 else deliver(dataset, workers)


def test_every_read_may_fail_once(lake: Lake, storage: Storage) -> None:
    undisturbed = epoch(lake)
    reads = storage.reads
    assert reads > 30
    for k in range(1, reads + 1):
        storage.forget(k)
        assert epoch(lake) == undisturbed, f"read {k} of {reads}"
        assert storage.reads > reads - 1


def test_reads_of_workers_may_fail_once(lake: Lake, storage: Storage) -> None:
    undisturbed = epoch(lake, workers=2)
    dataset = DedupDataset("trouble", lake.settings, **OPTIONS)
    # Each worker counts for itself, from where the process stood that it was forked from.
    for k in (1, 4, 9):
        storage.forget(k, k + 1)
        assert deliver(dataset, 2) == undisturbed


def test_storage_that_stays_away_is_not_called_damaged(lake: Lake, storage: Storage) -> None:
    before = epoch(lake)
    dataset = DedupDataset("trouble", lake.settings, **OPTIONS, prefetch=0)
    batches = iter(dataset.track(dataset))
    first = contents([next(batches)])
    state = dataset.state_dict()
    storage.forget(*range(1, 1000))
    with pytest.raises(
        StorageError, match=r"storage failed 5 times while the file .* was read: AWS.*state_dict\(\)"
    ) as told:
        list(batches)
    assert "Restore" not in str(told.value)
    storage.forget()
    resumed = DedupDataset("trouble", lake.settings, **OPTIONS)
    resumed.load_state_dict(state)
    assert first + contents(resumed) == before


def test_a_damaged_file_is_not_tried_again(lake: Lake, storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    dataset = DedupDataset("trouble", lake.settings, batch_size=5, prefetch=0, threads=1)
    storage.forget(*range(1, 1000))
    storage.error = OSError("Couldn't deserialize thrift: TProtocolException: Invalid data")
    with pytest.raises(StorageError, match=r"cannot be read: Couldn't deserialize thrift.*Restore the file"):
        list(dataset)
    assert (len(storage.places), "Retrying" in caplog.text) == (1, False)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OSError(NETWORK), True),
        (OSError(5, "Input/output error: 'x.parquet'"), True),
        (TimeoutError("timed out"), True),
        (OSError("When reading /data/magic/a.parquet: connection reset"), True),
        (OSError("Corrupt snappy compressed data."), False),
        (OSError("Parquet magic bytes not found in footer."), False),
        (FileNotFoundError(2, "No such file"), False),
        (PermissionError(13, "Permission denied"), False),
        (StorageError("told already"), False),
        (ValueError("no I/O error"), False),
    ],
)
def test_what_is_read_again(error: Exception, again: bool) -> None:
    assert retries.is_transient(error) is again
