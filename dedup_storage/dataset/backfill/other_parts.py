"""Finished parts of a run that was stopped: they are gone on with, or taken away, only by the same request."""

from __future__ import annotations

from collections.abc import Callable

from dedup_storage.lake.branch import branch_name
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import TableFormat
from dedup_storage.lake.requests import Request, require_same_parts

__all__ = ["refuse_other_parts"]


def refuse_other_parts(
    tables: TableFormat, meta: DatasetMetadata, asked: Callable[[], Request], run_id: str, besides: str | None = None
) -> None:
    """Refuse a run id under which another request finished parts and was stopped.

    A compaction would publish a backfill's values as the same rows in another order, an erasure would throw its work
    away, and once another request is published under the run id, nobody can go on with the parts.

    Args:
        tables: Where the dataset's tables are.
        meta: The dataset.
        asked: Gives what is asked now; may read a frame, and is called only where there are such parts.
        run_id: The run.
        besides: A table that is not looked at.

    Raises:
        UsageError: names the inputs that differ.
    """
    dataset, own = meta.spec.name, branch_name(run_id)
    for name in meta.tables:
        if name != besides and own in tables.branches(dataset, name):
            parts = tables.branch(dataset, name, run_id).parts()
            require_same_parts(asked(), (part.facts for part in parts), run_id)
