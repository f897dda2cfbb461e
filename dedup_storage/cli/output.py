"""What jobs print: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from dedup_storage.errors import StorageError
from dedup_storage.words import human_bytes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pyspark.sql import SparkSession

__all__ = [
    "Summary",
    "format_value",
    "quietly",
    "require_place",
    "show_error",
    "show_summary",
    "show_table",
    "stderr",
    "stdout",
    "step",
    "write_json",
]

Summary: TypeAlias = "BaseModel | Mapping[str, Any] | DataclassInstance"
# A pipe or a file has no width: tables are never cut there.
_WIDTH_ELSEWHERE = 200


def _console(stream: TextIO, *, to_errors: bool) -> Console:
    """A console that prints every text as it stands: a list of texts in brackets is no markup, ``:car:`` no picture."""
    width = None if stream.isatty() else _WIDTH_ELSEWHERE
    return Console(stderr=to_errors, highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


stdout = _console(sys.stdout, to_errors=False)
stderr = _console(sys.stderr, to_errors=True)
_NUMBER = re.compile(r"-|[\d.,]+( [a-zA-Z]{1,2}|x|%)?")
_POLL_SECONDS = 0.5
_MOST_IN_A_CELL = 4
_LEAST_ID = 10**15


def format_value(name: str, value: object) -> str:
    """A value as people read it; the unit follows from its name (``bytes``, ``_seconds``)."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) and _is_bytes(name):
        return human_bytes(value)
    if isinstance(value, (int, float)) and name.endswith("seconds"):
        return f"{value:.1f} s"
    if isinstance(value, int):
        # Numbers so great are ids of snapshots, not amounts.
        return f"{value:,}" if abs(value) < _LEAST_ID else str(value)
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, Mapping):
        unit = name if _is_bytes(name) or name.endswith("seconds") else ""
        return ", ".join(f"{key}: {format_value(unit or str(key), inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(format_value("", inner) for inner in value) or "-"
    return str(value)


def _is_bytes(name: str) -> bool:
    """Whether a field counts bytes, such as ``stored_bytes_before``; bytes of a row are a rate."""
    words = name.replace("_", " ").split()
    return "bytes" in words and "per" not in words


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; numbers are aligned to the right."""
    if not rows:
        return
    listed = [[value if isinstance(value, str) else format_value("", value) for value in row] for row in rows]
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.show_header = any(columns)
    for index, column in enumerate(columns):
        numeric = bool(listed) and all(_NUMBER.fullmatch(row[index]) for row in listed)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        table.add_row(*row)
    stdout.print(table)


def show_summary(title: str, summary: Summary) -> None:
    """Print a summary's fields, one a line; a list of rows, or a summary inside it, becomes a table of its own."""
    values = _values(summary)
    tables = {name: value for name, value in values.items() if _is_table(value)}
    inner = {name: value for name, value in values.items() if _is_summary(name, value)}
    apart = tables.keys() | inner.keys()
    plain = {name: value for name, value in values.items() if name not in apart and value not in (None, [], {}, ())}
    show_table(title, ("", ""), [(name.replace("_", " "), format_value(name, value)) for name, value in plain.items()])
    for name, rows in tables.items():
        columns = list(rows[0])
        cells = [[format_value(column, row.get(column)) for column in columns] for row in rows]
        show_table(name.replace("_", " ").capitalize(), [c.replace("_", " ") for c in columns], cells)
    for name, value in inner.items():
        show_summary(name.replace("_", " ").capitalize(), value)


def _is_summary(name: str, value: object) -> bool:
    """Whether a value has fields of its own, too many or too deep for a cell."""
    if not isinstance(value, Mapping) or name.endswith("seconds"):
        return False
    return len(value) > _MOST_IN_A_CELL or any(isinstance(v, Mapping) or _is_table(v) for v in value.values())


def _is_table(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(row, Mapping) for row in value)


def write_json(summary: Summary | Sequence[Any], path: Path | None) -> None:
    """Write a summary as JSON; ``-`` is standard output, ``None`` nowhere.

    Raises:
        StorageError: the file cannot be written.
    """
    if path is None:
        return
    values = summary if isinstance(summary, (list, tuple)) else _values(summary)
    text = json.dumps(values, indent=2, default=str) + "\n"
    if str(path) == "-":
        stdout.file.write(text)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the summary cannot be written to {path}: {error.strerror}") from None


def require_place(path: Path | None) -> None:
    """Refuse a place for the summary that cannot be written to, before anything is done.

    Raises:
        StorageError: the file cannot be written.
    """
    if path is None or str(path) == "-":
        return
    nearest = next((place for place in (path, *path.parents) if place.exists()), path)
    fits = (nearest == path) != nearest.is_dir()
    if not fits or not os.access(nearest, os.W_OK):
        raise StorageError(
            f"the summary cannot be written to {path}",
            expected="a file, or a new one in a folder that can be written to",
            got=f"{nearest}, {'a folder' if nearest.is_dir() else 'a file'}{' to read alone' if fits else ''}",
            fix="Name another file with --json.",
        )


def _values(summary: Any) -> dict[str, Any]:
    if isinstance(summary, BaseModel):
        return summary.model_dump(mode="json")
    return dict(summary) if isinstance(summary, Mapping) else asdict(summary)


def show_error(message: str) -> None:
    """Print one error as one message, however quiet a command is."""
    quiet, stderr.quiet = stderr.quiet, False
    stderr.print(f"error: {message}", markup=False, style="red")
    stderr.quiet = quiet


@contextmanager
def quietly(quiet: bool) -> Iterator[None]:
    """Print nothing but errors inside, and what was asked for as JSON on standard output."""
    before = stdout.quiet, stderr.quiet
    stdout.quiet, stderr.quiet = before[0] or quiet, before[1] or quiet
    try:
        yield
    finally:
        stdout.quiet, stderr.quiet = before


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
