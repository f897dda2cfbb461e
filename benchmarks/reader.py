"""Reading a dataset as deduplicated batches against the usual loaders on the flat log, and against bare decoding.

One log for each point of a sweep over B/R, tokens and workers, written once as our dataset (by Spark) and once as a
flat Parquet log in order of arrival. Ours shuffles; the others read in order. Seconds are those of one epoch, with
workers already running; opening and indexing are not timed on any side. The flat logs are shorter than ours, so all
figures are by impression.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from pyspark.sql import SparkSession
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._flat_readers import COLUMNS, FlatLog, FlatReader, Mosaic, mosaic_python
from benchmarks._harness import Report, Timing, lake, parse_kept, written
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.reader import DedupDataset
from dedup_storage.reader.epoch.iterate import default_threads
from dedup_storage.sources.raw import RawLog
from dedup_storage.synth import SynthLayout, SynthParams, write_log

OURS_BYTES, OURS_IMPRESSIONS = 256 << 20, 2_000_000
FLAT_BYTES, FLAT_IMPRESSIONS = 80 << 20, 100_000
# Epochs follow one another until so much time has passed: one of a small log is mostly start and end.
LEAST_SECONDS = 0.5
# Smaller than the default, so that windows follow one another as they do in logs larger than the buffer.
BUFFER_BYTES = 128 << 20
FAST, LIMIT, ALIKE = 25, 0.7, 0.9


@dataclass(frozen=True)
class Point:
    """One place of the sweep."""

    factor: int
    tokens: int
    workers: int

    @property
    def name(self) -> str:
        """For the table."""
        return f"B/R {self.factor}, {self.tokens:,} tokens, {self.workers} workers"

    @property
    def shape(self) -> str:
        """The same without workers."""
        return f"B/R {self.factor}, {self.tokens:,} tokens"

    @property
    def data(self) -> str:
        """Name of its dataset."""
        return f"b{self.factor}t{self.tokens}"

    def named(self, layout: str) -> str:
        """Name of its dataset in a layout."""
        return self.data if layout == "split" else f"{self.data}_{layout}"

    @property
    def batch_size(self) -> int:
        """Impressions of a batch, the same for every reader; a flat batch of the longest histories is 67 MB."""
        return 4096 if self.tokens <= 1024 else 512

    def params(self, *, flat: bool) -> SynthParams:
        """Its log; the flat one has fewer users of the same kind."""
        most_bytes, most = (FLAT_BYTES, FLAT_IMPRESSIONS) if flat else (OURS_BYTES, OURS_IMPRESSIONS)
        rows = most_bytes // (8 * self.tokens) if flat else most_bytes // (8 * self.tokens) * self.factor
        requests = max(min(rows, most) // self.factor, 8)
        return SynthParams.from_dict(
            {
                "users": max(requests // 10, 4),
                "requests_per_user": max(min(10, requests // 4), 1),
                "candidates_per_request": self.factor,
                "sequence_length": self.tokens,
                "new_events_per_request": 20,
                "history": ["hist_item_ids"],
                "days": 1,
                "layout": (SynthLayout.FLAT if flat else SynthLayout.FRAMES).value,
            }
        )


HEAD = Point(50, 1024, 0)
FACTORS, TOKENS, WORKERS = (1, 5, 20, 50, 200), (64, 1024, 16384), (0, 1, 2)
# What a batch costs beside decoding, without the other loaders: few bytes a batch, and batches that cross a process.
# Ten requests a user, of one impression each, whose histories slide by 20: the other loaders beside layout ``user``.
ALONE = Point(1, 1024, 0)
SHARED, ABOVE = {"histories": "shared", "together": 10}, 1.5
OWN = (HEAD, Point(50, 64, 0), Point(200, 64, 0), Point(200, 1024, 0))
CROSSED, SECOND = 0.7, 1.0


def points(scale: str, part: str) -> list[Point]:
    """``small`` moves along each axis from the head, a part along one; ``full`` takes every combination."""
    if part == "own":
        return list(OWN)
    if part == "user":
        return [ALONE]
    if scale == "full":
        return [Point(f, t, w) for t in TOKENS for f in FACTORS for w in WORKERS]
    along = {
        "factors": [Point(f, HEAD.tokens, HEAD.workers) for f in FACTORS],
        "tokens": [Point(HEAD.factor, t, HEAD.workers) for t in TOKENS],
        "workers": [Point(HEAD.factor, HEAD.tokens, w) for w in WORKERS],
    }
    return list(dict.fromkeys([HEAD, *(p for axis, ps in along.items() if part in ("all", axis) for p in ps)]))


def write_data(
    spark: SparkSession, settings: Settings, place: Path, point: Point, layouts: tuple[str, ...], flat: bool = True
) -> None:
    """The datasets of a point, and its flat log where other loaders are to read it."""
    params = point.params(flat=False)
    made = write_log(params, place / "frames" / point.data)
    raw = RawLog.read(
        spark, made.tables["requests"], schema=params.log_schema(), impressions=made.tables["impressions"]
    )
    for layout in layouts:
        name = point.named(layout)
        created = Dataset.create(spark, settings, name, raw.schema, raw, layout=layout, date_grain="day", buckets=4)
        created.write(raw, gate=False)
    shutil.rmtree(place / "frames" / point.data)
    if flat:
        write_log(point.params(flat=True), place / "flat" / point.data)


def bare(dataset: DedupDataset, threads: int) -> Callable[[], int]:
    """Decode the columns that our reader decodes from its files, ``threads`` files side by side, and drop them."""
    plan = dataset.plan
    files = {(u.file.path, plan.source.own_requests) for u in plan.units}
    files |= {(r.file.path, plan.source.own_impressions) for u in plan.units for r in u.impressions}

    def decode(file: tuple[str, tuple[str, ...]]) -> None:
        with pq.ParquetFile(file[0].removeprefix("file://")) as parquet:
            for _ in parquet.iter_batches(columns=list(file[1])):
                pass

    def epoch() -> int:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decode, sorted(files)))
        return plan.num_impressions

    return epoch


def ours(dataset: DedupDataset, workers: int) -> Callable[[], int]:
    """An epoch of our reader."""
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    epochs = iter(range(1_000_000))

    def epoch() -> int:
        dataset.set_epoch(next(epochs))
        return sum(batch.num_impressions for batch in loader)

    return epoch


@dataclass(frozen=True)
class Measured:
    """By impression: seconds, and processor time of this process and its workers."""

    wall: Timing
    processor: Timing


def processor_seconds() -> float:
    """Processor time of this process, of its workers, and of those that have ended."""
    ended, ticks = os.times(), os.sysconf("SC_CLK_TCK")
    total = time.process_time() + ended.children_user + ended.children_system
    for child in active_children():
        with suppress(FileNotFoundError):
            user, system = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            total += (int(user) + int(system)) / ticks
    return total


def in_turn(tasks: dict[str, Callable[[], int]], rounds: int) -> dict[str, Measured]:
    """Every task once a round, after one that is not counted."""
    wall: dict[str, list[float]] = {name: [] for name in tasks}
    processor: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            start, used, rows = time.perf_counter(), processor_seconds(), 0
            while time.perf_counter() - start < LEAST_SECONDS:
                rows += task()
            if number:
                wall[name].append((time.perf_counter() - start) / rows)
                processor[name].append((processor_seconds() - used) / rows)
    return {name: Measured(Timing(tuple(wall[name])), Timing(tuple(processor[name]))) for name in tasks}


def stored_bytes(dataset: DedupDataset) -> int:
    """Bytes of our data files."""
    plan = dataset.plan
    files = {u.file.path for u in plan.units} | {r.file.path for u in plan.units for r in u.impressions}
    return sum(Path(f.removeprefix("file://")).stat().st_size for f in files)


def opened(settings: Settings, point: Point, layout: str = "split", **more: Any) -> DedupDataset:
    """A point's dataset."""
    return DedupDataset(
        point.named(layout), settings, columns=COLUMNS, batch_size=point.batch_size, buffer_bytes=BUFFER_BYTES, **more
    )


def measure(
    report: Report, settings: Settings, place: Path, point: Point, rounds: int, mosaic: Mosaic | None, user: bool
) -> None:
    """One point of the sweep."""
    dataset = opened(settings, point)
    log = FlatLog(place / "flat" / point.data / "log", place / "forms" / point.data, point.batch_size, mosaic)
    flat = {reader.name: reader for reader in log.readers(point.workers)}
    tasks = {
        "ours": ours(dataset, point.workers),
        "bare decode of our files, side by side": bare(dataset, default_threads(1)),
        "bare decode of our files, one by one": bare(dataset, 1),
    }
    by_user: dict[str, DedupDataset] = {}
    if user:
        by_user["ours, layout user"] = opened(settings, point, "user")
        by_user["ours, layout user, by user"] = opened(settings, point, "user", **SHARED)
    tasks |= {name: ours(own, point.workers) for name, own in by_user.items()}
    measured = in_turn({**tasks, **{name: r.epoch for name, r in flat.items()}}, rounds)
    report.data[point.name] = {
        "requests": dataset.plan.num_requests, "impressions": dataset.plan.num_impressions, "flat rows": log.rows,
        "left out": log.left_out,
    }  # fmt: skip
    _rows(report, point, measured, flat)
    best = min(flat, key=lambda name: measured[name].wall.median)
    for name in by_user:
        report.speedup(f"{point.name}: {name}: faster than the best ({best})", measured[name].wall,
                       measured[best].wall, ABOVE)  # fmt: skip
    for name, own in {"ours": dataset, **by_user}.items():
        delivered = sum(batch.num_bytes for batch in own) / own.plan.num_impressions
        report.add(f"{point.name}: {name}: bytes of a batch, per impression", delivered, "B")
    report.add(f"{point.name}: ours: stored, per impression", stored_bytes(dataset) / dataset.plan.num_impressions, "B")
    for name, reader in flat.items():
        report.add(f"{point.name}: {name}: stored, per impression", reader.stored_bytes / log.rows, "B")


def measure_own(report: Report, settings: Settings, point: Point, rounds: int) -> None:
    """One point of what a batch costs; at the head also by threads and workers, all in turn."""

    dataset = opened(settings, point)
    bares = {
        "bare decode, side by side": bare(dataset, default_threads(1)),
        "bare decode, one by one": bare(dataset, 1),
    }
    tasks = {"ours": ours(dataset, 0), **bares}
    if point == HEAD:
        tasks |= {"ours, one thread": ours(opened(settings, point, threads=1), 0)}
        tasks |= {f"ours, {workers} workers": ours(opened(settings, point), workers) for workers in WORKERS if workers}
    measured = in_turn(tasks, rounds)
    for name, found in measured.items():
        rates = [1 / s / 1e3 for s in found.wall.seconds]
        rate = 1 / found.wall.median / 1e3
        report.add(f"{point.shape}: {name}", rate, "k impressions/s", spread=(min(rates), max(rates)))
        batch = found.processor.median * point.batch_size
        report.add(f"{point.shape}: {name}: processor time of a batch, all processes", batch * 1e6, "us")
    limiting = min(bares, key=lambda name: measured[name].wall.median)
    got = measured["ours"]
    report.speedup(f"{point.shape}: of the {limiting}", got.wall, measured[limiting].wall, LIMIT)
    report.speedup(f"{point.shape}: of the {limiting}, processor time", got.processor, measured[limiting].processor)
    if point == HEAD:
        one, two = measured["ours, 1 workers"].wall, measured["ours, 2 workers"].wall
        report.speedup(f"{point.shape}: one worker, of none", one, got.wall, CROSSED)
        report.speedup(f"{point.shape}: two workers, of one", two, one, SECOND)
        report.speedup(f"{point.shape}: two threads, of one", got.wall, measured["ours, one thread"].wall)


def _rows(report: Report, point: Point, measured: dict[str, Measured], flat: dict[str, FlatReader]) -> None:
    for name, found in measured.items():
        rates = [1 / s / 1e3 for s in found.wall.seconds]
        report.add(
            f"{point.name}: {name}", 1 / found.wall.median / 1e3, "k impressions/s", spread=(min(rates), max(rates))
        )
    wanted = {HEAD.factor: FAST, 1: ALIKE}.get(point.factor) if point.tokens == HEAD.tokens else None
    best = min(flat, key=lambda name: measured[name].wall.median)
    bares = [name for name in measured if name.startswith("bare")]
    # Threads that decode lists side by side wait for memory; the limit is what the processor can do at best.
    limiting = min(bares, key=lambda name: measured[name].wall.median)
    ours = measured["ours"]
    report.speedup(f"{point.name}: faster than the best ({best})", ours.wall, measured[best].wall, wanted)
    for name in bares:
        limit = LIMIT if point.workers == 0 and name == limiting else None
        report.speedup(f"{point.name}: of the {name}", ours.wall, measured[name].wall, limit)
        if point.workers == 0:
            used = measured[name].processor
            report.speedup(f"{point.name}: of the {name}, processor time", ours.processor, used)


def main(argv: list[str] | None = None) -> None:
    """Run it."""
    arguments = parse_kept(
        str(__doc__).splitlines()[0], argv, part=("all", "factors", "tokens", "workers", "own", "user")
    )
    report = Report("reader", arguments.scale)
    # Tensors over Arrow's memory are only read here.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    report.data["threads of torch"] = torch.get_num_threads()
    chosen = points(arguments.scale, arguments.part)
    by_user = arguments.part == "user"
    layouts = ("split", "user") if by_user else ("split",)
    with lake({"spark.driver.memory": "2g"}, arguments.place) as (spark, settings, place):
        if not (place / "written").exists():
            # What is kept serves every part.
            alone = arguments.part == "own"
            kept = points(arguments.scale, "all") if arguments.place and not alone and not by_user else chosen
            for point in {p.data: p for p in kept}.values():
                write_data(spark, settings, place, point, layouts, flat=not alone)
        spark.stop()
        if written(arguments):
            return
        if arguments.part == "own":
            for point in chosen:
                measure_own(report, settings, point, arguments.rounds)
            report.finish(arguments.json)
            return
        python = mosaic_python()
        mosaic = Mosaic(python) if python is not None else None
        for point in chosen:
            measure(report, settings, place, point, arguments.rounds, mosaic, by_user)
            report.save(arguments.json)
            # The other forms of the flat log are large: keep those of one dataset at a time.
            if not any(p.data == point.data for p in chosen[chosen.index(point) + 1 :]):
                shutil.rmtree(place / "forms" / point.data, ignore_errors=True)
        if mosaic is not None:
            mosaic.close()
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
