"""A decided version brought into all its tables by one commit, where a REST catalog offers that.

The claim stays a commit of its own, before: a server that makes the changes of such a request one after the other, as
Iceberg's own does, may stop in between. What it then leaves is a decided version that is complete in some tables, the
anchor not among them, which whoever comes next completes. On a server that keeps its word nobody ever sees that.

The commit rests on all that was looked at: on main, on the version's tag and on the hold of every table. So it does
what table after table would do, or nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pyspark.sql import SparkSession

from dedup_storage.config import CatalogType, Settings
from dedup_storage.faults import reached
from dedup_storage.lake.engine.atomic import ChangesTogether
from dedup_storage.lake.iceberg.branch import came_first
from dedup_storage.lake.iceberg.bring import Part, bring
from dedup_storage.lake.iceberg.commit import offers_one_commit
from dedup_storage.lake.iceberg.metadata import Lake
from dedup_storage.lake.retries import small_commits
from dedup_storage.spark.errors import JAVA_ERRORS, is_conflict, is_trouble, java_class, root_message

__all__ = ["OneCommit"]

_logger = logging.getLogger(__name__)
_TRIES = 5
# Answers of a server that offers such commits and makes none, or none of this kind: it has changed nothing.
_REFUSALS = {
    "BadRequestException",
    "ForbiddenException",
    "NoSuchTableException",
    "UnprocessableEntityException",
    "UnsupportedOperationException",
}


class OneCommit:
    """Makes such commits in one catalog.

    Args:
        spark, settings, lake: The catalog, as both clients see it.
    """

    def __init__(self, spark: SparkSession, settings: Settings, lake: Lake) -> None:
        self.spark, self.settings, self.lake = spark, settings, lake
        self._refused = False

    @property
    def offered(self) -> bool:
        """Whether the catalog offers it, and has refused none of this process."""
        if self._refused or self.settings.catalog.type is not CatalogType.REST:
            return False
        return offers_one_commit(self.lake.catalog) and ChangesTogether(self.spark, self.settings.catalog.name).possible

    def complete(self, dataset: str, parts: Sequence[Part]) -> bool:
        """Bring all parts in at once. ``False`` where that is not known to have happened: to be done, or looked up,
        table after table, which tells why.

        Args:
            dataset: The dataset.
            parts: Of every table of the version, the anchor last.
        """
        try:
            # Looks at every table anew each time: one that has its part by then is left as it is.
            for attempt in small_commits(came_first, _TRIES):
                with attempt:
                    return self._commit(dataset, parts)
        except JAVA_ERRORS as error:
            if not (came_first(error) or is_conflict(error) or is_trouble(error)):
                raise
        return False

    def _commit(self, dataset: str, parts: Sequence[Part]) -> bool:
        together = ChangesTogether(self.spark, self.settings.catalog.name)
        for part in parts:
            if not bring(together.change(f"{dataset}.{part.name}"), part):
                return False
        reached("publish:before-one-commit")
        try:
            together.commit()
        except JAVA_ERRORS as error:
            if not java_class(error) & _REFUSALS:
                raise
            self._refused = True
            _logger.warning(
                "The catalog %s offers commits of several tables (transactions/commit) and refused one: %s. Versions "
                "are published table after table.",
                self.settings.catalog.name,
                root_message(error),
            )
            return False
        return True
