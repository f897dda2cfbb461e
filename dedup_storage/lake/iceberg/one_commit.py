"""A decided version brought into all its tables by one commit, where a REST catalog offers that.

The claim stays a commit of its own, before, so that whoever comes next completes what was stopped.

Not every server makes all of what it answers with "done". Iceberg's own one makes the changes of such a request one
after the other, and leaves out, without a word, that of a table to which another commit came in between. The same
happens there to the second of two changes of one table, so that is tried, once a dataset and catalog, in a table that
goes again. A server that refuses such a request has told nothing, and is taken in good faith: whoever completes a
version looks, at what is loaded anyway, whether all of it came in (``Completion.mended``).

The commit rests on all that was looked at: on main, on the version's tag and on the hold of every table. So it does
what table after table would do, or nothing. Nothing that goes wrong here ends a run: the version is decided, and is
completed table after table, which tells what is wrong.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

from pyspark.sql import SparkSession

from dedup_storage.config import CatalogType, Settings
from dedup_storage.faults import reached
from dedup_storage.lake.engine.atomic import ChangesTogether
from dedup_storage.lake.iceberg.branch import came_first
from dedup_storage.lake.iceberg.bring import Part, bring
from dedup_storage.lake.iceberg.commit import TableChange, change_table, offers_one_commit
from dedup_storage.lake.iceberg.metadata import IcebergMetadata, Lake
from dedup_storage.lake.iceberg.scratch import scratch_table
from dedup_storage.lake.retries import small_commits
from dedup_storage.layout import PROPERTY_PREFIX
from dedup_storage.spark.errors import JAVA_ERRORS, commit_unknown, is_conflict, java_class, root_message

__all__ = ["DECLINED", "LOSSY", "ONE_COMMIT", "WHOLE", "OneCommit"]

# Of the anchor table, followed by a hash of the catalog's address: what that catalog was found to do.
ONE_COMMIT = PROPERTY_PREFIX + "one-commit."
_logger = logging.getLogger(__name__)
_TRIES = 5
WHOLE, LOSSY, DECLINED = "whole", "lossy", "declined"
_PROBES = ("first", "second")
# Answers to a request that was understood and is not wanted.
_DECLINED = {
    "BadRequestException",
    "IllegalArgumentException",
    "UnprocessableEntityException",
    "UnsupportedOperationException",
}
# The same, and answers that may as well be about the tables or the rights; each table by itself tells whether they are.
_REFUSALS = {*_DECLINED, "ForbiddenException", "NoSuchTableException"}


class OneCommit:
    """Makes such commits in one catalog.

    Args:
        spark, settings, lake: The catalog, as both clients see it.
    """

    def __init__(self, spark: SparkSession, settings: Settings, lake: Lake) -> None:
        self.spark, self.settings, self.lake = spark, settings, lake
        self._off = False
        self._refusal: str | None = None
        # A dataset may be moved to another catalog with all its metadata, what was found of the former one too.
        place = f"{settings.catalog.uri}\n{settings.warehouse}"
        self.property = ONE_COMMIT + hashlib.sha256(place.encode()).hexdigest()[:8]

    @property
    def offered(self) -> bool:
        """Whether server and client have such commits, as they say."""
        if self.settings.catalog.type is not CatalogType.REST or not offers_one_commit(self.lake.catalog):
            return False
        return ChangesTogether(self.spark, self.settings.catalog.name).possible

    def usable(self, meta: IcebergMetadata) -> bool:
        """Whether the catalog offers it, loses nothing of it, and has refused none of this process. Where that cannot
        be found out, a warning says why, and this process does without."""
        if self._off or self.settings.catalog.type is not CatalogType.REST:
            return False
        try:
            return self._found(meta) == WHOLE
        except Exception as error:  # noqa: BLE001 - the version is decided; what is wrong with the catalog is told below
            self._off = True
            _logger.warning(
                "Whether the catalog %s makes all of a commit of several tables cannot be tried: %s. Versions are "
                "published table after table by this process.",
                self.settings.catalog.name,
                # What other clients say may quote the catalog's answer, with the keys that it vends.
                root_message(error) if isinstance(error, JAVA_ERRORS) else type(error).__name__,
            )
            return False

    def _found(self, meta: IcebergMetadata) -> str | None:
        """What the catalog was found to do, or is now; ``None`` where it does not offer it."""
        if not self.offered:
            return None
        known = meta.anchor.properties.get(self.property)
        if known is None:
            known = WHOLE if self._loses_nothing(meta.spec.name) else LOSSY
            self._note(meta, known)
        return known

    def _note(self, meta: IcebergMetadata, found: str) -> None:
        change = TableChange(set={self.property: found})
        change_table(self.lake.catalog, (meta.spec.name, meta.spec.anchor.name), lambda _: change)

    def note_lost(self, meta: IcebergMetadata, tables: Sequence[str]) -> None:
        """Remember that the catalog lost parts of a commit that it said it had made, and do without from now on."""
        self._off = True
        self._warn_of_loss(", ".join(tables))
        try:
            self._note(meta, LOSSY)
        except Exception as error:  # noqa: BLE001 - what was lost is to be brought in first of all
            _logger.warning("That cannot be noted in %s: %s", meta.spec.name, type(error).__name__)

    def _warn_of_loss(self, tables: str) -> None:
        _logger.warning(
            "The catalog %s offers commits of several tables (transactions/commit) and lost a part of one that it said "
            "it had made (%s). Versions are published table after table.",
            self.settings.catalog.name,
            tables,
        )

    def trial(self, dataset: str) -> str:
        """What the catalog does with such commits, tried in tables of a namespace that go again; for people.

        Returns:
            ``whole``: it made one for two tables, and loses nothing. ``lossy``: it said that it made one, and did not
            make all of it. ``declined``: it offers such commits and makes none.

        Raises:
            Py4JJavaError, PySparkException: it did something else, which tells nothing.
        """
        with (
            scratch_table(self.spark, self.settings, dataset) as one,
            scratch_table(self.spark, self.settings, dataset) as other,
        ):
            made = self._changed(dataset, (one, other), "1")
            if made is None:
                return DECLINED
            return WHOLE if made and self._changed(dataset, (one, one), "2") is not False else LOSSY

    def _loses_nothing(self, dataset: str) -> bool:
        """Whether of two changes of one table that the catalog makes in one commit both are there; what it declines it
        does not lose.

        Raises:
            Py4JJavaError, PySparkException: it did something else, which tells nothing.
        """
        with scratch_table(self.spark, self.settings, dataset) as name:
            if self._changed(dataset, (name, name), "1") is False:
                self._warn_of_loss("of a table made to try it")
                return False
        return True

    def _changed(self, dataset: str, names: tuple[str, str], value: str) -> bool | None:
        """Whether of a change of each of two tables, which may be one, both are there after one commit; ``None`` where
        the catalog declines it. The value is a new one: what changes nothing is not sent."""
        together = ChangesTogether(self.spark, self.settings.catalog.name)
        for name, key in zip(names, _PROBES, strict=True):
            together.change(f"{dataset}.{name}").set_property(key, value)
        try:
            together.commit()
        except JAVA_ERRORS as error:
            if not commit_unknown(error) and (is_conflict(error) or java_class(error) & _DECLINED):
                return None
            raise
        found = (self.lake.catalog.load_table((dataset, name)).properties for name in names)
        return all(there.get(key) == value for there, key in zip(found, _PROBES, strict=True))

    def complete(self, dataset: str, parts: Sequence[Part]) -> bool:
        """Bring all parts in at once. ``False`` where that is not known to have happened: to be done, or looked up,
        table after table, which tells why.

        Args:
            dataset: The dataset.
            parts: Of every table of the version, the anchor last.
        """
        self._refusal = None
        try:
            # Looks at every table anew each time: one that has its part by then is left as it is.
            for attempt in small_commits(came_first, _TRIES):
                with attempt:
                    return self._commit(dataset, parts)
        except JAVA_ERRORS as error:
            if not (came_first(error) or is_conflict(error)):
                _logger.warning(
                    "The catalog %s did not make a commit of several tables: %s. This version is published table after "
                    "table.",
                    self.settings.catalog.name,
                    root_message(error),
                )
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
            if came_first(error) or not java_class(error) & _REFUSALS:
                raise
            self._refusal = root_message(error)
            return False
        return True

    def succeeded_apart(self) -> None:
        """Table after table brought in what may have been refused at once: then tables and rights are well, and it is
        such commits that the catalog refuses. It is not asked again."""
        if self._refusal is None:
            return
        self._off = True
        _logger.warning(
            "The catalog %s offers commits of several tables (transactions/commit) and refused one: %s. Versions are "
            "published table after table.",
            self.settings.catalog.name,
            self._refusal,
        )
        self._refusal = None
