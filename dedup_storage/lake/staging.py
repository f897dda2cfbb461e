"""Between staging and publication: what fails there leaves nothing, and says where another has taken the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dedup_storage.errors import ConflictError, QualityGateError
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.lake.runs import Run, Staged, staged_gone
from dedup_storage.layout import DatasetSpec

__all__ = ["staging"]


@contextmanager
def staging(tables: TableFormat, spec: DatasetSpec, run: Run) -> Iterator[list[Staged]]:
    """Discard an attempt when anything fails before its publication begins.

    Args:
        tables: The format.
        spec: The dataset.
        run: The attempt.

    Yields:
        A list to name what is staged in. Where a read of it fails and it is no longer there, that is the error.

    Raises:
        StorageError: what was staged is gone; names the table and the run.
    """
    staged: list[Staged] = []
    try:
        yield staged
    except BaseException as error:
        told = isinstance(error, (ConflictError, QualityGateError)) or not isinstance(error, Exception)
        lost = [] if told else [s.table for s in staged if not tables.holds_staged(spec, s, run)]
        tables.discard(spec, run)
        if lost:
            raise staged_gone(lost[0], run.run_id) from error
        raise
