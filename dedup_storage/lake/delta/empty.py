"""Takes every file out of a table that the newest version does not have; Delta versions of before keep theirs."""

from __future__ import annotations

from collections.abc import Iterable

from pyspark.sql import SparkSession

from dedup_storage.lake.delta.abandon import APP
from dedup_storage.lake.delta.files import live_files
from dedup_storage.lake.delta.log import TableLog
from dedup_storage.lake.delta.ref import DeltaRef
from dedup_storage.lake.publishing import LostRaceError
from dedup_storage.lake.retries import small_commits

__all__ = ["empty_table"]

# Delta's application id of such commits.
_EMPTYING = f"{APP}-empty"


def empty_table(spark: SparkSession, ref: DeltaRef, paths: Iterable[str]) -> None:
    """Do it.

    Args:
        spark: Session to commit with.
        ref: The table. No version that is published or decided goes by its newest Delta version.
        paths: The files that it had when that was looked at; what came since stays.
    """
    seen = list(paths)
    for attempt in small_commits(lambda error: isinstance(error, LostRaceError)):
        with attempt:
            number = int(ref.load().version()) + 1
            TableLog(spark, ref.uri).commit(live_files(ref).at(seen).removals(), _EMPTYING, number)
