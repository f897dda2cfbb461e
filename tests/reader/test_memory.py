"""Behaviours 25 and 26 in numbers: resident memory over epochs, and under the buffer's bound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dedup_storage.schema import DateGrain
from tests.reader.lake import Lake, Log, make_log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"),
]

MB = 1 << 20
TOKENS = 16_384
SCRIPT = Path(__file__).with_name("memory_process.py")


def long_histories(log: Log) -> Log:
    """The same log with histories of 16,384 tokens."""
    rows = log.requests.num_rows
    values = np.random.default_rng(0).integers(0, 2**40, rows * TOKENS)
    history = pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * TOKENS, values)
    place = log.requests.column_names.index("history")
    return replace(log, requests=log.requests.set_column(place, "history", history))


@pytest.fixture(scope="module")
def long_log(lake: Lake) -> str:
    """800 requests, 105 MB of histories; the first request has 100,000 candidates."""
    log = long_histories(make_log(users=160, requests_per_user=5, days=1, giant=100_000))
    lake.standing("long_histories", log, date_grain=DateGrain.NONE, buckets=4, page_bytes=MB)
    return "long_histories"


def measure(lake: Lake, name: str, epochs: int, **options: Any) -> dict[str, Any]:
    """What ``memory_process`` prints."""
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(lake.settings.warehouse), name, str(epochs), json.dumps(options)],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent.parent)},
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_25_resident_memory_is_flat_over_ten_epochs(lake: Lake, long_log: str) -> None:
    found = measure(lake, long_log, 10, batch_size=64, buffer_bytes=16 * MB, splits=2, mix=2)
    assert found["requests"] == 800
    assert len(set(found["allocated"])) == 1
    # The first epochs fill what the allocators keep; each epoch decodes 105 MB.
    after = found["after"][3:]
    assert after[-1] - after[0] < 24 * MB
    assert np.polyfit(range(len(after)), after, 1)[0] < 4 * MB


def test_26_memory_stays_in_its_bound_at_16384_tokens_with_a_giant_request(lake: Lake, long_log: str) -> None:
    options: dict[str, Any] = {"batch_size": 64, "splits": 2, "mix": 2}
    bounded = measure(lake, long_log, 2, buffer_bytes=16 * MB, **options)
    free = measure(lake, long_log, 2, buffer_bytes=512 * MB, **options)
    assert bounded["requests"] == free["requests"] == 800
    # The windows, and for each open file what Arrow needs to decode it: its read buffer, pages, levels, a piece.
    assert bounded["arrow"] < 16 * MB + 4 * 12 * MB
    assert free["arrow"] > 105 * MB
    # Besides Arrow: the batches made ahead, and what allocators round up.
    assert bounded["risen"] < bounded["arrow"] + 4 * bounded["largest_batch"] + 48 * MB
