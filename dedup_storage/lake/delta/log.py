"""Delta's own log through Spark: write files without committing them, commit them later.

Delta's writer is two steps: files are written into the table's folder and described by actions, then the actions are
committed. A run's staged data is what lies between the two: files that no version of the table names.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from dedup_storage.lake.publishing import LostRaceError

__all__ = ["DELTA_WRITES", "TableLog"]

# Delta takes the codec and the timestamps' type from the session that writes, not from the table.
DELTA_WRITES = {
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}

# Delta's words for a commit that others' commits refuse.
_RACES = (
    "ConcurrentTransactionException",
    "ConcurrentDeleteDeleteException",
    "ConcurrentDeleteReadException",
    "MetadataChangedException",
)


class TableLog:
    """One table's log.

    Args:
        spark: The session that writes; files are encoded by its settings.
        uri: The table's folder.
    """

    def __init__(self, spark: SparkSession, uri: str) -> None:
        self.spark, self.uri = spark, uri
        jvm: Any = spark._jvm
        self._jvm, self._delta = jvm, jvm.org.apache.spark.sql.delta

    def _log(self) -> Any:
        return self._delta.DeltaLog.forTable(self.spark._jsparkSession, self.uri)

    def write(self, frame: DataFrame) -> list[str]:
        """Write rows into files that no version names; Delta checks its constraints on the way.

        Args:
            frame: Rows with the table's columns, of this log's session.

        Returns:
            Delta's actions as JSON, one for each file.
        """
        return [str(action.json()) for action in _iterate(self._log().startTransaction().writeFiles(frame._jdf))]

    def files_at(self, version: int) -> list[str]:
        """The actions that add the files of a Delta version, as JSON."""
        none = getattr(self._jvm.scala, "None$").__getattr__("MODULE$")
        snapshot = self._log().getSnapshotAt(version, none, none, False)
        return [f'{{"add":{text}}}' for text in snapshot.allFiles().toJSON().collectAsList()]

    def checkpoint(self, version: int) -> None:
        """Write a checkpoint of a Delta version, by which it can be read without the log before it."""
        none = getattr(self._jvm.scala, "None$").__getattr__("MODULE$")
        log = self._log()
        log.checkpoint(log.getSnapshotAt(version, none, none, False), none)

    def commit(self, actions: Sequence[str], app: str, number: int) -> None:
        """Commit actions once: a log that has the application's transaction already stays as it is.

        Raises:
            LostRaceError: another commit came between.
        """
        transaction = self._log().startTransaction()
        if transaction.txnVersion(app) >= number:
            return
        marker = {"txn": {"appId": app, "version": number, "lastUpdated": _now_ms()}}
        listed = self._jvm.java.util.ArrayList()
        for action in (*actions, json.dumps(marker)):
            listed.add(self._delta.actions.Action.fromJson(action))
        converted = self._jvm.scala.jdk.javaapi.CollectionConverters.asScala(listed).toSeq()
        operation = getattr(self._delta, "DeltaOperations$ManualUpdate$").__getattr__("MODULE$")
        try:
            transaction.commit(converted, operation)
        except (Py4JJavaError, PySparkException) as error:
            if any(race in str(error) for race in _RACES):
                raise LostRaceError(str(error)) from error
            raise


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _iterate(sequence: Any) -> Iterable[Any]:
    iterator = sequence.iterator()
    while iterator.hasNext():
        yield iterator.next()
