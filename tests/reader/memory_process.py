"""Memory of epochs in a process of their own: ``python memory_process.py WAREHOUSE DATASET EPOCHS OPTIONS``.

Prints JSON: resident bytes and Arrow's allocated bytes after each epoch, and how far the peak of the last epoch rose
above what was resident when the reader was open.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import pyarrow as pa

from dedup_storage.config import Settings
from dedup_storage.reader import DedupDataset

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(field: str) -> int:
    """``VmRSS`` now, ``VmHWM`` at the highest."""
    return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith(field))


def main(warehouse: str, name: str, epochs: int, options: str) -> None:
    """Read epochs, batch after batch."""
    dataset = DedupDataset(name, Settings(warehouse=warehouse), **json.loads(options))
    after, allocated, largest = [], [], 0
    # What is loaded and started at the first batch belongs to no epoch.
    for batch in DedupDataset(name, Settings(warehouse=warehouse), **json.loads(options), filters={"users": [1]}):
        del batch
    gc.collect()
    before = resident("VmRSS")
    RESET.write_text("5")
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        for batch in dataset:
            largest = max(largest, batch.num_bytes)
        del batch
        gc.collect()
        after.append(resident("VmRSS"))
        allocated.append(pa.total_allocated_bytes())
    found = {
        "after": after,
        "allocated": allocated,
        "arrow": pa.default_memory_pool().max_memory(),
        "risen": resident("VmHWM") - before,
        "largest_batch": largest,
        "requests": dataset.plan.num_requests,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
