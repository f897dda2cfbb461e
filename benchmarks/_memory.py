"""Most resident memory of a session's processes while something runs: the JVM, and Python's under it (Linux)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._harness import peak_memory_bytes, reset_peak_memory

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Peaks", "own_bytes", "peaks", "processor_seconds"]

# Processes are looked at so often; each one's own high-water mark holds what came between.
_SECONDS = 0.05


@dataclass
class Peaks:
    """Most resident bytes.

    Attributes:
        jvm: Of driver and executor in one: heap and all else.
        worker: Of the largest Python worker.
        workers: Of all Python workers together; pages that they share are counted once (``Pss``).
    """

    jvm: int = 0
    worker: int = 0
    workers: int = 0


@contextmanager
def peaks(spark: SparkSession) -> Iterator[Peaks]:
    """What a session's processes take while the block runs; filled in when it ends."""
    found, stop = Peaks(), threading.Event()
    jvm = int(spark._jvm.java.lang.ProcessHandle.current().pid())  # type: ignore[union-attr]
    reset_peak_memory(spark)
    # A worker that an earlier write has left keeps its mark.
    for pid in _workers(jvm):
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def watch() -> None:
        while True:
            marks, together = [0], 0
            for pid in _workers(jvm):
                with suppress(OSError):
                    marks.append(_bytes(pid, "status", "VmHWM:"))
                    together += _bytes(pid, "smaps_rollup", "Pss:")
            found.worker, found.workers = max(found.worker, *marks), max(found.workers, together)
            if stop.wait(_SECONDS):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        stop.set()
        watcher.join()
        found.jvm = peak_memory_bytes(spark)


def processor_seconds(spark: SparkSession) -> dict[str, float]:
    """Processor time so far of this process, of the JVM, and of Python's processes under it that still run (Linux)."""
    jvm = int(spark._jvm.java.lang.ProcessHandle.current().pid())  # type: ignore[union-attr]
    return {"driver": _seconds(os.getpid()), "jvm": _seconds(jvm), "python": sum(map(_seconds, _workers(jvm)))}


def own_bytes(name: str) -> int:
    """Resident memory of this process: now (``VmRSS:``), or the most that it had (``VmHWM:``)."""
    return _bytes("self", "status", name)


def _workers(jvm: int) -> list[int]:
    """Python's processes under the JVM: Spark's daemon and its workers.

    Others are left out. The JVM also runs commands, and such a process shows the JVM's own memory until it is another
    program.
    """
    found, asked = [], [jvm]
    while asked:
        pid = asked.pop()
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                below = [int(child) for child in (task / "children").read_text().split()]
                found += below
                asked += below
    return [pid for pid in found if _program(pid).startswith("python")]


def _program(pid: int) -> str:
    """Name of the file that a process runs; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""


def _seconds(pid: int) -> float:
    with suppress(OSError):
        # The program's name, in brackets, may hold anything; the twelfth and thirteenth field behind it are meant.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _bytes(pid: int | str, file: str, name: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0
