"""Progress of jobs that read many files without Spark, or that work in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dedup_storage.cli.output import stderr
from dedup_storage.words import human_bytes

__all__ = ["FileProgress", "file_progress", "part_progress"]

_PLAIN_EVERY = 2_000


class FileProgress:
    """What is being done, and how many files were read: one live line on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._status = stderr.status("") if stderr.is_terminal else None
        self._text = ""

    def step(self, text: str) -> None:
        """Name what begins."""
        self._text = text
        if self._status is not None:
            self._status.update(f"{text} ...")
        else:
            stderr.print(f"{text} ...", markup=False)

    def files(self, done: int) -> None:
        """Tell the number of files read."""
        if self._status is not None:
            self._status.update(f"{self._text}: {done:,} files")
        elif done % _PLAIN_EVERY == 0:
            stderr.print(f"{self._text}: {done:,} files", markup=False)


@contextmanager
def file_progress() -> Iterator[FileProgress]:
    """Show progress until the block ends."""
    progress = FileProgress()
    if progress._status is None:
        yield progress
        return
    with progress._status:
        yield progress


@contextmanager
def part_progress() -> Iterator[Callable[[int, int, int, int], None]]:
    """Show finished and all segments, and bytes written so far: a bar on a terminal, plain lines elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if not stderr.is_terminal:
        yield lambda done, total, written, planned: stderr.print(
            f"{done:,} of {total:,} segments, about {human_bytes(written)} of {human_bytes(planned)}", markup=False
        )
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[size]}"), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task("segments", total=None, size="")

        def show(done: int, total: int, written: int, planned: int) -> None:
            size = f"{done:,} of {total:,}, about {human_bytes(written)} of {human_bytes(planned)}"
            bar.update(task, completed=done, total=total, size=size)

        yield show
