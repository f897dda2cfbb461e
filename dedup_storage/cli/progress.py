"""Progress of jobs that read many files without Spark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dedup_storage.cli.output import stderr

__all__ = ["FileProgress", "file_progress"]

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
