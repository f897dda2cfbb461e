"""A process of a history: a writer that publishes run after run until it is killed or told to stop, or a reader.

A writer owns one event date: it appends five requests, and every third run replaces all that the date has. A run that
a kill stopped is run again under its id. A reader reads the newest version again and again and prints what it saw.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from pathlib import Path

from dedup_storage.errors import ConflictError
from dedup_storage.lake.catalogs import open_lake
from dedup_storage.reader.dataset import DedupDataset
from tests.integration.crash_jobs import log
from tests.integration.processes import embedded_settings, opened

__all__ = ["REPLACING", "SAW", "first_request"]

SAW = "SAW"
# Every so many runs of a writer replace the date.
REPLACING = 3


def first_request(number: int, turn: int) -> int:
    """Where the requests of a writer's run begin: no two runs bring the same."""
    return 100_000 * (number + 1) + 10 * turn


def write(dataset: str, number: int, turn: int, end: Path) -> None:
    """Publish runs from a turn on."""
    ds = opened(dataset, f"writer {number}")
    while not end.exists():
        mode = "replace" if turn % REPLACING == REPLACING - 1 else "append"
        raw = log(ds.spark, [number + 1], first_request(number, turn))
        try:
            version = str(ds.write(raw, run_id=f"w{number}-{turn}", mode=mode, gate=False).version)
        except ConflictError:
            version = "conflict"
        print("RAN", f"w{number}-{turn}", version, flush=True)  # noqa: T201
        turn += version != "conflict"
    ds.spark.stop()


def read(dataset: str, end: Path) -> None:
    """Read the newest version whole, by the reader, as a training job would."""
    settings = embedded_settings(os.environ).model_copy(update={"format": os.environ["DEDUP_STORAGE_FORMAT"]})
    while not end.exists():
        version = open_lake(settings).load(dataset).current
        batches = DedupDataset(dataset, settings, version=version, columns=["request_id", "item"], batch_size=64)
        requests: Counter[int] = Counter()
        for batch in batches:
            ids = batch["request_id"].values.tolist()
            requests.update(dict(zip(ids, batch.lengths.tolist(), strict=True)))
        print(SAW, json.dumps([version, sorted(requests.items())]), flush=True)  # noqa: T201


def main() -> None:
    """Be a writer or a reader until a file is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--writer", type=int)
    parser.add_argument("--turn", type=int, default=0)
    parser.add_argument("--end", type=Path, required=True)
    given = parser.parse_args()
    if given.writer is None:
        read(given.dataset, given.end)
    else:
        write(given.dataset, given.writer, given.turn, given.end)


if __name__ == "__main__":
    main()
