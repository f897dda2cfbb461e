"""What a log of many small files costs before its first row: its files listed and their schemas made one.

Every command that opens a log reads each file's footer. The files lie on this machine's disk; in an object store a
footer is a request, of which sixteen are under way at a time. Beside it, the footers read one after the other by
PyArrow alone.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, in_turn, parse
from dedup_storage.sources.source import Source, open_source

FILES = {"small": 1_000, "full": 10_000}
SECONDS, MEBIBYTES = 20, 200


def lay_down(folder: Path, files: int) -> None:
    """Files of ten rows; every hundredth lacks a column, every second has another width of integers."""
    for number in range(files):
        width = pa.int32() if number % 2 else pa.int64()
        columns = {
            "user_id": pa.array(range(10), width),
            "request_id": [f"{number}-{row}" for row in range(10)],
            "item_id": list(range(10)),
            "label": [0] * 10,
            "hist": [[row] * 5 for row in range(10)],
            "place": [{"country": "x", "store": row} for row in range(10)],
        }
        if number % 100 == 99:
            del columns["label"]
        pq.write_table(pa.table(columns), folder / f"part-{number:06d}.parquet")


def peak() -> int:
    """Most resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run the benchmark."""
    arguments = parse(__doc__ or "")
    files, report = FILES[arguments.scale], Report("sources", arguments.scale)
    place = Path(tempfile.mkdtemp(prefix="dedup-storage-benchmark-"))
    # Kept, so that what a source holds counts.
    opened: list[Source] = []
    try:
        lay_down(place, files)
        first = sorted(place.iterdir())[0]
        open_source(str(first))
        before = peak()
        tasks = {
            "ours": lambda: opened.append(open_source(str(place))),
            "plain": lambda: [pq.read_schema(path) for path in place.iterdir()],
        }
        tasks["ours"]()
        grown = peak() - before
        found = in_turn(tasks, arguments.rounds)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    ours, plain = found["ours"], found["plain"]
    target = f"<= {SECONDS}"
    report.add(
        f"schemas of {files:,} files made one", ours.median, "s", baseline=plain.median, spread=ours.spread,
        target=target, holds=ours.median <= SECONDS,
    )  # fmt: skip
    report.add("memory that it takes, at most", grown / 2**20, "MiB", target=f"<= {MEBIBYTES}",
               holds=grown <= MEBIBYTES * 2**20)  # fmt: skip
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
