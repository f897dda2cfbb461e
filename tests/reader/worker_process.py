"""An epoch with two workers, one of which is killed with kill -9: ``python worker_process.py WAREHOUSE DATASET OUT``.

Each batch that was received and the state after it make a line of OUT.

A process of its own, because torch reports the dead worker from a signal handler, wherever the trainer happens to be.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from torch.utils.data import DataLoader

from dedup_storage.config import Settings
from dedup_storage.reader import DedupBatch, DedupDataset


def kill_worker(batch: DedupBatch) -> DedupBatch:
    """Die at the batch with index 3."""
    if batch.progress.index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch


def main(warehouse: str, name: str, out: str) -> None:
    """Read the epoch; the dead worker must end it with an error."""
    dataset = DedupDataset(name, Settings(warehouse=warehouse), batch_size=10, transform=kill_worker)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, timeout=60)
    with Path(out).open("w") as lines:
        for batch in dataset.track(loader):
            lines.write(json.dumps({"index": batch.progress.index, "state": dataset.state_dict()}) + "\n")
            lines.flush()


if __name__ == "__main__":
    main(*sys.argv[1:4])
