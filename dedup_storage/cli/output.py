"""What jobs print: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from dedup_storage.errors import StorageError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = [
    "format_value",
    "human_bytes",
    "show_error",
    "show_summary",
    "show_table",
    "stderr",
    "stdout",
    "step",
    "write_json",
]

# A pipe or a file has no width: tables are never cut there.
_WIDTH_ELSEWHERE = 200
stdout = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDTH_ELSEWHERE)
stderr = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else _WIDTH_ELSEWHERE)
_POLL_SECONDS = 0.5
_PLAIN_FIELDS = (str, int, float, bool)


def human_bytes(count: float) -> str:
    """A number of bytes with a decimal unit. Example: ``human_bytes(1_500)`` -> ``"1.5 kB"``"""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_value(name: str, value: object) -> str:
    """A value as people read it; the unit follows from the end of its name (``_bytes``, ``_seconds``)."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) and name.endswith("_bytes"):
        return human_bytes(value)
    if isinstance(value, (int, float)) and name.endswith("_seconds"):
        return f"{value:.1f} s"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {format_value(str(key), inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(format_value("", inner) for inner in value) or "-"
    return str(value)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; numbers are aligned to the right."""
    listed = [[value if isinstance(value, str) else format_value("", value) for value in row] for row in rows]
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(listed) and all(row[index][:1].isdigit() or row[index] == "-" for row in listed)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for row in listed:
        table.add_row(*row)
    stdout.print(table)


def show_summary(title: str, summary: BaseModel | Mapping[str, Any]) -> None:
    """Print a summary's fields, one a line."""
    values = summary.model_dump(mode="json") if isinstance(summary, BaseModel) else dict(summary)
    show_table(title, ("", ""), [(name.replace("_", " "), format_value(name, value)) for name, value in values.items()])


def write_json(summary: BaseModel | Mapping[str, Any] | Sequence[Any], path: Path | None) -> None:
    """Write a summary as JSON; ``-`` is standard output, ``None`` nowhere.

    Raises:
        StorageError: the file cannot be written.
    """
    if path is None:
        return
    values = summary.model_dump(mode="json") if isinstance(summary, BaseModel) else summary
    text = json.dumps(values, indent=2, default=str) + "\n"
    if str(path) == "-":
        stdout.file.write(text)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the summary cannot be written to {path}: {error.strerror}") from None


def show_error(message: str) -> None:
    """Print one error as one message."""
    stderr.print(f"error: {message}", markup=False, style="red")


@contextmanager
def step(text: str, spark: SparkSession | None = None) -> Iterator[None]:
    """Show that something long is under way: a live line on a terminal, plain lines elsewhere.

    Args:
        text: What is being done, such as ``"Collapsing the log"``.
        spark: Session whose running tasks are counted on a terminal.
    """
    began = time.monotonic()
    if not stderr.is_terminal:
        stderr.print(f"{text} ...", markup=False)
        yield
        stderr.print(f"{text}: {time.monotonic() - began:.1f} s", markup=False)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=stderr, transient=True) as progress:
        task = progress.add_task(text, total=None)
        finished = threading.Event()
        poller = threading.Thread(target=_follow, args=(spark, progress, task, finished), daemon=True)
        poller.start()
        try:
            yield
        finally:
            finished.set()
            poller.join()
    stderr.print(f"{text}: {time.monotonic() - began:.1f} s", markup=False)


def _follow(spark: SparkSession | None, progress: Progress, task: Any, finished: threading.Event) -> None:
    """Copy the number of tasks of Spark's running stages to the progress line until ``finished``."""
    if spark is None:
        return
    tracker = spark.sparkContext.statusTracker()
    while not finished.wait(_POLL_SECONDS):
        stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
        running = [stage for stage in stages if stage is not None]
        if running:
            total = sum(stage.numTasks for stage in running)
            progress.update(task, total=total, completed=sum(stage.numCompletedTasks for stage in running))
