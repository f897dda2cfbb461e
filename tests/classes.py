"""The JVM's classes of a test run, kept in one archive: most of a start of Java is loading and verifying classes.

The first session that tests started gives the archive when a process is first wanted; processes after it, and the
sessions of the next run, map it. Java passes over an archive of other jars, or of another Java, by itself.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["FOLDER", "java_options", "keep_classes"]

# The run's own process names the folder to its workers: pytest's cache, which the next run finds.
FOLDER = "TEST_CLASSES"
_QUIET = "-Xlog:cds=off -Xlog:cds+dynamic=off"


def _archive() -> Path | None:
    folder = os.environ.get(FOLDER)
    return Path(folder) / "spark.jsa" if folder else None


def java_options(*, recording: bool = False) -> str:
    """What Java is started with; ``recording``: it may be asked for its classes, where nobody gave them yet."""
    archive = _archive()
    if archive is None:
        return ""
    if archive.exists():
        return f"-XX:SharedArchiveFile={archive} {_QUIET}"
    return f"-XX:+RecordDynamicDumpInfo {_QUIET}" if recording else ""


def keep_classes(spark: SparkSession) -> None:
    """Have the classes of a session's JVM kept, unless that was done; without a tool for it Java starts as ever."""
    archive = _archive()
    if archive is None or archive.exists():
        return
    java = spark._jvm.java.lang  # type: ignore[union-attr]
    tool = Path(java.System.getProperty("java.home")) / "bin" / "jcmd"
    with open(archive.with_suffix(".lock"), "w") as lock:
        # The other worker waits for it: two of its own starts take as long.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if archive.exists() or not tool.exists():
            return
        with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
            made = Path(folder) / archive.name
            process = str(java.ProcessHandle.current().pid())
            subprocess.run([str(tool), process, "VM.cds", "dynamic_dump", str(made)], capture_output=True, check=False)
            if made.exists():
                made.replace(archive)
