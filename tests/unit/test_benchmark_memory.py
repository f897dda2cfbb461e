"""What benchmarks call memory of Python workers is Python's alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import _memory

linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="memory of processes is read from /proc")


@linux
def test_only_pythons_processes_are_workers() -> None:
    """The JVM's commands show the JVM's own memory until they are another program."""
    words = [sys.executable, "-c", "input()"], [str(shutil.which("cat"))]
    python, other = (subprocess.Popen(w, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) for w in words)
    try:
        # Until it is another program, a process that was begun is this one, which is Python.
        for _ in range(500):
            if _memory._program(other.pid) == Path(words[1][0]).resolve().name:
                break
            time.sleep(0.01)
        found = _memory._workers(os.getpid())
        assert python.pid in found
        assert other.pid not in found
    finally:
        for process in (python, other):
            process.communicate(b"\n")


def test_a_process_that_has_ended_runs_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert _memory._program(ended.pid) == ""
