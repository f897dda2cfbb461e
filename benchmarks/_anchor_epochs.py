"""Epochs of readers on one core, in turn, by a process of its own, since others have threads by then."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from benchmarks._anchors import LISTS, Store
from benchmarks._harness import in_turn
from dedup_storage.config import Settings
from dedup_storage.reader import DedupDataset

__all__ = ["epochs"]

BATCH, ITEMS = 64, next(iter(LISTS))


def epochs(
    settings: Settings, datasets: Mapping[str, tuple[str, Mapping[str, Any]]], stores: Mapping[str, Path], rounds: int
) -> dict[str, dict[str, Any]]:
    """Read each dataset and each store once, then again in turn.

    Args:
        settings: Where the datasets are.
        datasets: Title -> dataset, and options of the reader.
        stores: Title -> folder.
        rounds: Timed epochs of each.

    Returns:
        Of each the ``tokens`` of its histories, the sum of their ``items``, and ``seconds`` of its epochs.
    """
    asked = {
        "settings": settings.model_dump(mode="json", exclude_defaults=True),
        "datasets": datasets,
        "stores": {title: str(place) for title, place in stores.items()},
        "rounds": rounds,
    }
    words = [sys.executable, "-m", "benchmarks._anchor_epochs"]
    done = subprocess.run(
        words,
        input=json.dumps(asked).encode(),
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def _epoch(dataset: DedupDataset, numbers: Iterator[int]) -> tuple[int, int]:
    """Tokens that an epoch delivers, of each request, also where batches share them; and the sum of their items."""
    dataset.set_epoch(next(numbers))
    tokens = items = 0
    for batch in dataset:
        if batch.shared:
            shared = batch.shared[ITEMS]
            sums = torch.cat([torch.zeros(1, dtype=torch.int64), shared.values.cumsum(0)])
            tokens += int((shared.ends - shared.starts).sum())
            items += int((sums[shared.ends] - sums[shared.starts]).sum())
        else:
            tokens += len(batch[ITEMS].values)
            items += int(batch[ITEMS].values.sum())
    return tokens, items


def main() -> None:
    """Read what standard input names."""
    asked = json.load(sys.stdin)
    core = min(os.sched_getaffinity(0))
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})
    pa.set_cpu_count(1)
    torch.set_num_threads(1)
    settings = Settings.model_validate(asked["settings"])
    tasks: dict[str, Callable[[], tuple[int, int]]] = {}
    for title, place in asked["stores"].items():
        tasks[title] = partial(Store(Path(place)).epoch, BATCH, 1)
    for title, (name, options) in asked["datasets"].items():
        tasks[title] = partial(_epoch, _opened(name, settings, options), count())
    found: dict[str, dict[str, Any]] = {title: {} for title in tasks}
    for title, task in tasks.items():
        found[title]["tokens"], found[title]["items"] = task()
    for title, timing in in_turn(tasks, asked["rounds"]).items():
        found[title]["seconds"] = timing.seconds
    sys.stdout.write(json.dumps(found))


def _opened(name: str, settings: Settings, options: Mapping[str, Any]) -> DedupDataset:
    columns: Sequence[str] = [*LISTS, "item_id", "label"]
    return DedupDataset(name, settings, batch_size=BATCH, seed=1, columns=columns, threads=1, **options)


if __name__ == "__main__":
    main()
