"""One rank of a distributed epoch, as a process: ``python rank_process.py WAREHOUSE DATASET OUT [KILL_AT]``."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist

from dedup_storage.config import Settings
from dedup_storage.reader import DedupDataset


def main(warehouse: str, name: str, out: str, kill_at: int) -> None:
    """Write each delivered batch and the state after it as a line; rank 1 may kill itself."""
    dist.init_process_group("gloo")
    dataset = DedupDataset(name, Settings(warehouse=warehouse), batch_size=10, columns=["item_id"], ends="uneven")
    state = Path(out) / "merged.json"
    if state.exists():
        dataset.load_state_dict(json.loads(state.read_text()))
    rank = dist.get_rank()
    with (Path(out) / f"rank{rank}.jsonl").open("w") as lines:
        json.dump([None, dataset.state_dict()], lines)
        lines.write("\n")
        for step, batch in enumerate(dataset):
            if rank == 1 and step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            json.dump([[batch.progress.index, batch["request_id"].values.tolist()], dataset.state_dict()], lines)
            lines.write("\n")
            lines.flush()
    if kill_at < 0:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]) if len(sys.argv) > 4 else -1)  # type: ignore[arg-type]
