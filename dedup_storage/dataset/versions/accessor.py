"""What is under way on a dataset, and the way out of it, as ``Dataset.publication`` gives them."""

from __future__ import annotations

from dedup_storage.dataset.handle import Handle
from dedup_storage.lake.runs import named_run
from dedup_storage.lake.status import PublicationStatus
from dedup_storage.spark.errors import translated

__all__ = ["Publication"]


class Publication:
    """Publications under way on a dataset.

    Args:
        handle: The dataset.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def status(self) -> PublicationStatus:
        """A version that is decided and not complete, runs that staged something, versions that were given up; from
        metadata alone."""
        with translated():
            return self._handle.tables.status(self._handle.name)

    def abandon(self, version: int) -> PublicationStatus:
        """Give up a version that is decided and can never be completed; gives the status after it.

        Nobody can complete it from the first step on, not even a run that is at it. What it brought into tables is
        taken out again; readers never saw it. Its run can run again, and its number is not used again.

        Raises:
            UsageError: the version is published, or was never decided.
        """
        with translated():
            self._handle.tables.abandon(self._handle.spec, version)
            return self._handle.tables.status(self._handle.name)

    def abandon_run(self, run_id: str) -> tuple[str, ...]:
        """Give up what a stopped run has staged, and the parts that it finished; gives the tables they were in, none
        where nothing was found.

        The run is named by its id, or as ``status`` names it.
        A run that is still at work fails, with nothing published; a version that it has decided stays decided.
        """
        with translated():
            return self._handle.tables.abandon_run(self._handle.spec, named_run(run_id, "abandon"))
