"""A decided version brought into all its tables by one commit, where a REST catalog offers that.

The claim stays a commit of its own, before, so that whoever comes next completes what was stopped.

Not every server makes all of what it answers with "done". Iceberg's own one makes the changes of such a request one
after the other, and leaves out, without a word, that of a table to which another commit came in between. The same
happens there to the second of two changes of one table, so that is tried, once a dataset, in a table that goes again.

The commit rests on all that was looked at: on main, on the version's tag and on the hold of every table. So it does
what table after table would do, or nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence

from pyspark.sql import SparkSession

from dedup_storage.config import CatalogType, Settings
from dedup_storage.faults import reached
from dedup_storage.lake.engine.atomic import ChangesTogether
from dedup_storage.lake.iceberg.branch import came_first
from dedup_storage.lake.iceberg.bring import Part, bring
from dedup_storage.lake.iceberg.commit import TableChange, change_table, offers_one_commit
from dedup_storage.lake.iceberg.metadata import ONE_COMMIT, IcebergMetadata, Lake
from dedup_storage.lake.retries import small_commits
from dedup_storage.lake.sql import quoted
from dedup_storage.spark.errors import (
    JAVA_ERRORS,
    commit_unknown,
    is_conflict,
    is_trouble,
    java_class,
    root_message,
)

__all__ = ["OneCommit"]

_logger = logging.getLogger(__name__)
_TRIES = 5
_WHOLE, _LOSSY = "whole", "lossy"
_PROBES = ("first", "second")
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

    def usable(self, meta: IcebergMetadata) -> bool:
        """Whether the catalog offers it, loses nothing of it, and has refused none of this process."""
        if self._refused or self.settings.catalog.type is not CatalogType.REST:
            return False
        if not offers_one_commit(self.lake.catalog):
            return False
        if not ChangesTogether(self.spark, self.settings.catalog.name).possible:
            return False
        dataset, known = meta.spec.name, meta.anchor.properties.get(ONE_COMMIT)
        if known is None:
            known = _WHOLE if self._loses_nothing(dataset) else _LOSSY
            found = TableChange(set={ONE_COMMIT: known})
            change_table(self.lake.catalog, (dataset, meta.spec.anchor.name), lambda _: found)
        return known == _WHOLE

    def _loses_nothing(self, dataset: str) -> bool:
        """Whether of two changes of one table that the catalog makes in one commit both are there; what it refuses it
        does not lose."""
        name = f"_probe_{uuid.uuid4().hex[:8]}"
        full = quoted(self.settings.catalog.name, dataset, name)
        self.spark.sql(f"CREATE TABLE {full} (probe int) USING iceberg")
        try:
            together = ChangesTogether(self.spark, self.settings.catalog.name)
            for key in _PROBES:
                together.change(f"{dataset}.{name}").set_property(key, "1")
            together.commit()
            there = self.lake.catalog.load_table((dataset, name)).properties
        except JAVA_ERRORS as error:
            return not commit_unknown(error) and (is_conflict(error) or bool(java_class(error) & _REFUSALS))
        finally:
            self.spark.sql(f"DROP TABLE IF EXISTS {full} PURGE")
        if not all(key in there for key in _PROBES):
            _logger.warning(
                "The catalog %s offers commits of several tables (transactions/commit) and lost a part of one that it "
                "said it had made. Versions are published table after table.",
                self.settings.catalog.name,
            )
            return False
        return True

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
