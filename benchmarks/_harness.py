"""What benchmarks share: arguments, machine facts, rounds in turn, shuffled bytes, peak memory, table and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from dedup_storage.config import Settings, load_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = [
    "Cost",
    "Report",
    "Row",
    "Timing",
    "costs_in_turn",
    "in_turn",
    "lake",
    "parse",
    "parse_kept",
    "peak_memory_bytes",
    "read_rows",
    "reset_peak_memory",
    "shuffled_bytes",
    "written",
]

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("pyspark", "pyiceberg", "delta-spark", "deltalake", "pyarrow", "numpy", "torch", "great-expectations")


@dataclass(frozen=True)
class Row:
    """One line of a result.

    Attributes:
        metric, value, unit: What was measured.
        baseline: The same for the baseline.
        target: What was aimed at, as text.
        holds: Whether the target was met; ``None`` without a target.
        spread: Least and greatest of the rounds.
    """

    metric: str
    value: float
    unit: str
    baseline: float | None = None
    target: str | None = None
    holds: bool | None = None
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds of several rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Fastest and slowest round."""
        return min(self.seconds), max(self.seconds)


@dataclass
class Report:
    """Collects rows, prints them, writes JSON."""

    name: str
    scale: str
    data: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def add(self, metric: str, value: float, unit: str, **more: Any) -> None:
        """Add a row."""
        self.rows.append(Row(metric, value, unit, **more))

    def seconds(self, metric: str, timing: Timing, baseline: Timing | None = None) -> None:
        """Add a timing, and its baseline's."""
        self.add(metric, timing.median, "s", spread=timing.spread, baseline=baseline.median if baseline else None)

    def speedup(self, metric: str, ours: Timing, baseline: Timing, at_least: float | None = None) -> None:
        """Add how many times faster: the median of the rounds' own ratios, since neighbours in time compare best."""
        ratios = [b / o for o, b in zip(ours.seconds, baseline.seconds, strict=True)]
        value = statistics.median(ratios)
        target = None if at_least is None else f">= {at_least:g}"
        holds = None if at_least is None else value >= at_least
        self.add(metric, value, "x", target=target, holds=holds, spread=(min(ratios), max(ratios)))

    def finish(self, path: str | None) -> None:
        """Print the table; write JSON when a path is given."""
        facts = machine()
        table = Table(title=f"{self.name} ({self.scale}): {facts['cores']} cores, {facts['cpu']}")
        for column in ("metric", "value", "unit", "spread", "baseline", "target", "holds"):
            table.add_column(column, justify="left" if column in ("metric", "unit", "target") else "right")
        for row in self.rows:
            spread = f"{_text(row.spread[0])} to {_text(row.spread[1])}" if row.spread else ""
            holds = "" if row.holds is None else "yes" if row.holds else "MISSED"
            base = "" if row.baseline is None else _text(row.baseline)
            table.add_row(row.metric, _text(row.value), row.unit, spread, base, row.target or "", holds)
        Console(width=None if sys.stdout.isatty() else 160).print(table)
        self.save(path)

    def save(self, path: str | None) -> None:
        """Write JSON when a path is given; after each part, so that a run that is stopped leaves what it measured."""
        if path is None:
            return
        found = {"machine": machine(), "versions": versions(), "data": {"scale": self.scale, **self.data}}
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({**found, "rows": [asdict(r) for r in self.rows]}, indent=2) + "\n")


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (s.split(":", 1)[1].strip() for s in info.read_text().splitlines() if s.startswith("model name")), cpu
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "memory_bytes": memory, "system": f"{platform.system()} {platform.release()}"}


def versions() -> dict[str, str]:
    """Of Python, the packages that matter, and the Maven artifacts of the embedded configuration."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    for coordinates in load_settings(ROOT / "conf" / "local.yaml", {}).spark.packages:
        _, artifact, release = coordinates.split(":")
        found[artifact] = release
    return found


def parse(
    description: str, argv: Sequence[str] | None = None, scales: Sequence[str] = ("small", "full")
) -> argparse.Namespace:
    """``--scale`` (``small`` by default), ``--json PATH``, ``--rounds N``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--scale", choices=scales, default="small")
    parser.add_argument("--json", metavar="PATH")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(argv)


def parse_kept(
    description: str, argv: Sequence[str] | None, *, scales: Sequence[str] = ("small", "full"), **more: Sequence[str]
) -> argparse.Namespace:
    """As ``parse``, with a choice for each further name, ``--data DIR`` and ``--prepare``.

    The log's tables are kept in ``--data`` for later runs; ``--prepare`` ends once they are written.

    ``place`` is the directory for this scale, emptied unless an earlier run wrote all of it; see ``written``.
    """
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--data", type=Path)
    own.add_argument("--prepare", action="store_true")
    for name, choices in more.items():
        own.add_argument(f"--{name}", choices=choices, default=choices[0])
    chosen, rest = own.parse_known_args(argv)
    arguments = parse(description, rest, scales)
    arguments.place = chosen.data / arguments.scale if chosen.data else None
    if arguments.place and not (arguments.place / "written").exists():
        shutil.rmtree(arguments.place, ignore_errors=True)
        arguments.place.mkdir(parents=True)
    vars(arguments).update(vars(chosen))
    return arguments


def written(arguments: argparse.Namespace) -> bool:
    """Remember that the tables are whole; gives whether the run was to write no more than these."""
    if arguments.place:
        (arguments.place / "written").touch()
    return bool(arguments.prepare)


def in_turn(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Run every task once a round, in the order given, so that a busy spell of the machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


@contextmanager
def lake(
    conf: Mapping[str, str] | None = None, keep: Path | None = None, table_format: str = "iceberg"
) -> Iterator[tuple[SparkSession, Settings, Path]]:
    """A Spark session over a warehouse of its own, and a directory for raw logs; both are deleted in the end.

    With ``keep`` they lie in that directory and stay, so that a later run finds the tables.
    """
    place = keep.resolve() if keep else Path(tempfile.mkdtemp(prefix="dedup-storage-benchmark-"))
    more = {"spark.ui.showConsoleProgress": "false", "spark.sql.shuffle.partitions": "8", **(conf or {})}
    settings = load_settings(
        ROOT / "conf" / "local.yaml",
        {
            "DEDUP_STORAGE_WAREHOUSE": str(place / "warehouse"),
            "DEDUP_STORAGE_SPARK__CONF": json.dumps(more),
            "DEDUP_STORAGE_FORMAT": table_format,
        },
    )
    # Not on top: what needs no Spark runs where there is none, such as on a machine with a GPU.
    from dedup_storage.lake.session import get_spark

    spark = get_spark(settings, "dedup_storage benchmark")
    try:
        yield spark, settings, place
    finally:
        spark.stop()
        if keep is None:
            shutil.rmtree(place, ignore_errors=True)


def shuffled_bytes(spark: SparkSession, task: Callable[[], object]) -> tuple[int, int]:
    """Bytes and records that the stages of one task wrote to shuffle files, from Spark's status store."""
    before = {stage.stageId() for stage in _stages(spark)}
    task()
    spark.sparkContext._jsc.sc().listenerBus().waitUntilEmpty()
    new = [stage for stage in _stages(spark) if stage.stageId() not in before]
    return sum(s.shuffleWriteBytes() for s in new), sum(s.shuffleWriteRecords() for s in new)


def read_rows(spark: SparkSession, task: Callable[[], object]) -> int:
    """Rows that the scans of one task read, from Spark's status store."""
    before = {stage.stageId() for stage in _stages(spark)}
    task()
    spark.sparkContext._jsc.sc().listenerBus().waitUntilEmpty()
    return sum(int(stage.inputRecords()) for stage in _stages(spark) if stage.stageId() not in before)


@dataclass(frozen=True)
class Cost:
    """What one task took.

    Attributes:
        seconds: Wall time.
        processor: Seconds of processor time of Spark's tasks.
        shuffled, spilled: Bytes written to shuffle files, and by operators that ran out of memory to disk.
    """

    seconds: float
    processor: float
    shuffled: int
    spilled: int


def costs_in_turn(
    spark: SparkSession, tasks: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, tuple[Cost, ...]]:
    """Run every task once a round, in the order given, and take of each run what Spark's status store says of it."""
    found: dict[str, list[Cost]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            before = {stage.stageId() for stage in _stages(spark)}
            start = time.perf_counter()
            task()
            seconds = time.perf_counter() - start
            spark.sparkContext._jsc.sc().listenerBus().waitUntilEmpty()
            new = [stage for stage in _stages(spark) if stage.stageId() not in before]
            cost = Cost(
                seconds,
                sum(s.executorCpuTime() for s in new) / 1e9,
                sum(s.shuffleWriteBytes() for s in new),
                sum(s.diskBytesSpilled() for s in new),
            )
            found[name].append(cost)
    return {name: tuple(values) for name, values in found.items()}


def _stages(spark: SparkSession) -> list[Any]:
    gateway = spark.sparkContext._gateway
    store = spark.sparkContext._jsc.sc().statusStore()
    quantiles = gateway.new_array(gateway.jvm.double, 0)
    found = store.stageList(None, False, False, quantiles, None)
    return [found.apply(i) for i in range(found.size())]


def _jvm(spark: SparkSession) -> Path:
    return Path("/proc") / str(spark._jvm.java.lang.ProcessHandle.current().pid())  # type: ignore[union-attr]


def reset_peak_memory(spark: SparkSession) -> None:
    """Start a new high-water mark of the JVM's resident memory (Linux)."""
    spark._jvm.java.lang.System.gc()  # type: ignore[union-attr]
    (_jvm(spark) / "clear_refs").write_text("5")


def peak_memory_bytes(spark: SparkSession) -> int:
    """Most resident memory of the JVM since the last reset: driver and executor in one, heap and all else (Linux)."""
    status = (_jvm(spark) / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
