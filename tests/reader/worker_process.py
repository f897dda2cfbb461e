"""An epoch with two workers, one of which is killed with kill -9: ``python worker_process.py WAREHOUSE DATASET``.

A process of its own, because torch reports the dead worker from a signal handler, wherever the trainer happens to be.
"""

from __future__ import annotations

import os
import signal
import sys

from torch.utils.data import DataLoader

from dedup_storage.config import Settings
from dedup_storage.reader import DedupBatch, DedupDataset


def kill_worker(batch: DedupBatch) -> DedupBatch:
    """Die at the batch with index 3."""
    if batch.progress.index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch


def main(warehouse: str, name: str) -> None:
    """Read the epoch; the dead worker must end it with an error."""
    dataset = DedupDataset(name, Settings(warehouse=warehouse), batch_size=10, transform=kill_worker)
    for _ in DataLoader(dataset, batch_size=None, num_workers=2, timeout=60):
        pass


if __name__ == "__main__":
    main(*sys.argv[1:3])
