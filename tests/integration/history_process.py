"""A process of a history: writers that publish run after run until it is killed or told to stop, or a reader.

A writer owns one event date: it appends five requests, and every third run replaces all that the date has. A run that
a kill stopped is run again under its id. Writers of one process share its session, as jobs of one driver do. A reader
reads the newest version again and again and prints what it saw.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from dedup_storage.dataset.facade import Dataset
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


def write(dataset: str, turns: Mapping[int, int], end: Path) -> None:
    """Publish the runs of some writers, each from a turn on."""
    ds = opened(dataset, f"writers {', '.join(map(str, turns))}")
    pool = ThreadPoolExecutor(len(turns))
    running = [pool.submit(publish, ds, number, turn, end) for number, turn in turns.items()]
    failed = [error for each in wait(running, return_when=FIRST_EXCEPTION).done if (error := each.exception())]
    if failed:
        traceback.print_exception(failed[0])
        sys.stdout.flush()
        # The others would go on until they are told to stop.
        os._exit(1)
    ds.spark.stop()


def publish(ds: Dataset, number: int, turn: int, end: Path) -> None:
    """Publish runs of one writer from a turn on."""
    while not end.exists():
        mode = "replace" if turn % REPLACING == REPLACING - 1 else "append"
        raw = log(ds.spark, [number + 1], first_request(number, turn))
        try:
            version = str(ds.write(raw, run_id=f"w{number}-{turn}", mode=mode, gate=False).version)
        except ConflictError:
            version = "conflict"
        # One write a line: others write too.
        sys.stdout.write(f"RAN w{number}-{turn} {version}\n")
        sys.stdout.flush()
        turn += version != "conflict"


def read(dataset: str, pause: float, end: Path) -> None:
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
        time.sleep(pause)


def main() -> None:
    """Be a writer or a reader until a file is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--writers", help="writer=turn, ...; none for a reader")
    parser.add_argument("--pause", type=float, default=0, help="seconds between two reads")
    parser.add_argument("--end", type=Path, required=True)
    given = parser.parse_args()
    if given.writers is None:
        read(given.dataset, given.pause, given.end)
    else:
        turns = (each.split("=") for each in given.writers.split(","))
        write(given.dataset, {int(number): int(turn) for number, turn in turns}, given.end)


if __name__ == "__main__":
    main()
