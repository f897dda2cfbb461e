"""Delta's own log through Spark: files are written without being committed, actions are committed as text."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from dedup_storage.lake.engine.java import iterate

__all__ = ["DeltaLog"]

_WRITE = "org.apache.spark.sql.delta.DeltaOperations$Write"


class DeltaLog:
    """One table's log.

    Args:
        spark: The session that writes; files are encoded by its settings.
        uri: The table's folder.
    """

    def __init__(self, spark: SparkSession, uri: str) -> None:
        self.spark, self.uri = spark, uri
        jvm: Any = spark._jvm
        self._jvm = jvm
        self._delta: Any = self._jvm.org.apache.spark.sql.delta

    def _log(self) -> Any:
        return self._delta.DeltaLog.forTable(self.spark._jsparkSession, self.uri)

    def _none(self) -> Any:
        return getattr(self._jvm.scala, "None$").__getattr__("MODULE$")

    def write(self, frame: DataFrame, metadata: str | None = None) -> list[str]:
        """Write rows into files that no version names; Delta checks its constraints on the way.

        Args:
            frame: Rows with the table's columns, of this log's session.
            metadata: The table's metadata by which they are written, Delta's action as JSON; ``None`` takes its own.

        Returns:
            Delta's actions as JSON, one for each file.
        """
        transaction = self._log().startTransaction()
        if metadata is not None:
            transaction.updateMetadata(self._delta.actions.Action.fromJson(metadata), False)
        return [str(action.json()) for action in iterate(transaction.writeFiles(frame._jdf))]

    def metadata(self, version: int | None = None) -> str:
        """The table's metadata in a Delta version (``None``: the newest), Delta's action as JSON."""
        log = self._log()
        found = log.update(False, self._none(), self._none()) if version is None else self._at(log, version)
        return str(found.metadata().json())

    def _at(self, log: Any, version: int) -> Any:
        return log.getSnapshotAt(version, self._none(), self._none(), False)

    def files_at(self, version: int) -> list[str]:
        """The actions that add the files of a Delta version, as JSON."""
        snapshot = self._at(self._log(), version)
        return [f'{{"add":{text}}}' for text in snapshot.allFiles().toJSON().collectAsList()]

    def checkpoint(self, version: int) -> None:
        """Write a checkpoint of a Delta version, by which it can be read without the log before it."""
        log = self._log()
        log.checkpoint(self._at(log, version), self._none())

    def commit(
        self, actions: Sequence[str], app: str, number: int, *, written: bool = False, at: int | None = None
    ) -> bool:
        """Commit actions once: a log that has the application's transaction already stays as it is.

        Args:
            actions: Delta's actions, as JSON.
            app, number: The application and its transaction.
            at: The Delta version by which all that the table holds was reckoned; ``None`` where only what is named in
                the actions matters.
            written: They add files that the newest version does not have and take out such as it has, with their sizes,
                and do nothing else: Delta then reckons the version's counts from those of the version before. Of other
                actions it believes nothing, and reads the log back by Spark.

        Returns:
            ``False`` where the log went on since ``at``, and nothing was committed.

        Raises:
            Py4JJavaError, PySparkException: among others where another commit came between.
        """
        transaction = self._log().startTransaction()
        if self._last_number(transaction, app) >= number:
            return True
        if at is not None:
            # Else commits that add files alone are not in the way.
            transaction.readWholeTable()
            if int(transaction.snapshot().version()) != at:
                return False
        marker = {"txn": {"appId": app, "version": number, "lastUpdated": time.time_ns() // 1_000_000}}
        listed = self._jvm.java.util.ArrayList()
        for action in (*actions, json.dumps(marker)):
            listed.add(self._delta.actions.Action.fromJson(action))
        converted = self._jvm.scala.jdk.javaapi.CollectionConverters.asScala(listed).toSeq()
        manual = getattr(self._delta, "DeltaOperations$ManualUpdate$").__getattr__("MODULE$")
        transaction.commit(converted, self._write(transaction) if written else manual)
        return True

    def set_metadata(self, metadata: str) -> None:
        """Give the table other metadata, Delta's action as JSON, and change no file.

        Raises:
            Py4JJavaError: another commit came between.
        """
        transaction = self._log().startTransaction()
        listed = self._jvm.java.util.ArrayList()
        listed.add(self._delta.actions.Action.fromJson(metadata))
        converted = self._jvm.scala.jdk.javaapi.CollectionConverters.asScala(listed).toSeq()
        nothing = getattr(self._delta, "DeltaOperations$EmptyCommit$").__getattr__("MODULE$")
        transaction.commit(converted, nothing)

    def _last_number(self, transaction: Any, app: str) -> int:
        """The application's newest transaction; another one of it that comes before the commit refuses the commit."""
        # Beside the log Delta notes what applications committed: nobody has to read it back, as the snapshot's own
        # method of what is known does (``setTransactionsIfKnown``).
        noted = transaction.snapshot().checksumOpt()
        known = noted.get().setTransactions() if noted.isDefined() else noted
        if known.isEmpty():
            return int(transaction.txnVersion(app))
        transaction.readTxn().addOne(app)
        found = self._jvm.scala.jdk.javaapi.CollectionConverters.asJava(known.get())
        return max((int(each.version()) for each in found if each.appId() == app), default=-1)

    def _write(self, transaction: Any) -> Any:
        """Delta's name for what a write does; releases differ in how many options it has."""
        made = transaction.getClass().getClassLoader().loadClass(_WRITE).getConstructors()[0]
        gateway: Any = self.spark.sparkContext._gateway
        values = gateway.new_array(self._jvm.java.lang.Object, made.getParameterCount())
        values[0] = self._jvm.org.apache.spark.sql.SaveMode.Append
        for place in range(1, len(values)):
            values[place] = self._none()
        return made.newInstance(values)
