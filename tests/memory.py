"""Lets a test run keep its files in memory: a small commit waits for a disk a hundred times as long as it works.

Where the machine has a file system in memory with room enough, temporary files of the run, its workers and its child
processes lie there; ``TMPDIR`` decides otherwise. No test rests on a disk: processes are killed, machines are not.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["leave_memory", "use_memory"]

_MEMORY = Path("/dev/shm")  # noqa: S108 - made in it is one folder, named after the process
_PREFIX = "dedup-storage-tests-"
_ROOM = 8 * 1024**3


def use_memory() -> Path | None:
    """Let temporary files lie in memory from here on; gives the folder, which ``leave_memory`` removes."""
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < _ROOM:
        return None
    for left in _MEMORY.glob(f"{_PREFIX}*"):
        # Of a run that was killed.
        if not Path(f"/proc/{left.name.removeprefix(_PREFIX)}").exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = _MEMORY / f"{_PREFIX}{os.getpid()}"
    folder.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = os.environ["SPARK_LOCAL_DIRS"] = str(folder)
    tempfile.tempdir = None
    return folder


def leave_memory(folder: Path | None) -> None:
    """Remove what ``use_memory`` gave."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("TMPDIR", "SPARK_LOCAL_DIRS"):
            os.environ.pop(name, None)
        tempfile.tempdir = None
