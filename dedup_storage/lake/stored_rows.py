"""Users in Parquet files, whatever table or version names these: the one look that hides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from dedup_storage.spark.errors import JAVA_ERRORS

__all__ = ["Seen", "StoredRows", "count_present"]

_TEXT = "_dedup_text"
# What Delta puts behind a greatest value that it cut.
_MARKS = "[\\u007f\\x{10ffff}]+$"


@dataclass(frozen=True)
class Seen:
    """What was found in Parquet files.

    Attributes:
        files: Files looked at.
        rows: Name of a file -> rows of the users in it; files without any are left out.
        unreadable: Names of files from which no row can be read: a run that was killed in the middle of one left it.
    """

    files: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    unreadable: frozenset[str] = frozenset()


class StoredRows:
    """Rows of some users in Parquet files, rows that deletion vectors hide included.

    Args:
        session: Reads the files.
        users: The users, one column in the type and with the name that the files have.
    """

    def __init__(self, session: SparkSession, users: DataFrame) -> None:
        self._session, self._users = session, users
        (self._user,) = users.columns

    def _rows(self, *places: str, torn: bool = False) -> DataFrame:
        kind = self._users.schema[self._user].dataType.simpleString()
        reader = self._session.read.schema(f"`{self._user}` {kind}").option("recursiveFileLookup", "true")
        reader = reader.option("ignoreCorruptFiles", str(torn).lower())
        return reader.option("pathGlobFilter", "*.parquet").parquet(*places)

    def _listed(self, *places: str) -> DataFrame:
        """Files at places, or below folders; no file is opened."""
        reader = self._session.read.format("binaryFile").option("recursiveFileLookup", "true")
        return reader.option("pathGlobFilter", "*.parquet").load(list(places)).select("path", _name("path"))

    def _theirs(self, rows: DataFrame) -> DataFrame:
        return rows.join(F.broadcast(self._users), self._user, "left_semi")

    def count(self, *places: str) -> int:
        """Rows of the users in files, or in all Parquet files below folders."""
        return self._theirs(self._rows(*places)).count()

    def present(self, *places: str) -> DataFrame:
        """Those of the users, as texts, that have rows in files or below folders; torn files are passed over."""
        found = self._theirs(self._rows(*places, torn=True).select(self._user))
        return found.select(F.col(self._user).cast("string").alias("user"))

    def count_bounds(self, bounds: DataFrame, length: int, *places: str) -> int:
        """How many least and greatest values that metadata keeps of files tell of the users.

        A long text is cut there. Cut, it tells of a user unless another one who is in the files begins in the same way.

        Args:
            bounds: The values as texts, one column.
            length: So many characters are kept of a text; behind them stand at most marks of a greatest value.
            places: Files, or folders below which they lie.
        """
        (bound,) = bounds.columns
        texts = self._users.select(F.col(self._user).cast("string").alias(_TEXT))
        whole = bounds.join(F.broadcast(texts), F.col(bound) == F.col(_TEXT), "left_semi").count()
        if not isinstance(self._users.schema[self._user].dataType, StringType):
            return whole
        begun = F.substring(_TEXT, 1, length).alias(_TEXT)
        long = texts.filter(F.length(_TEXT) > length).select(begun).distinct()
        cut = bounds.select(F.regexp_replace(bound, _MARKS, "").alias(_TEXT)).filter(F.length(_TEXT) == length)
        cut = cut.join(F.broadcast(long), _TEXT, "left_semi")
        if cut.isEmpty():
            return whole
        others = self._rows(*places, torn=True).join(F.broadcast(self._users), self._user, "left_anti")
        others = others.select(F.col(self._user).alias(_TEXT)).select(begun)
        others = others.join(F.broadcast(cut.distinct()), _TEXT, "left_semi").distinct()
        return whole + cut.join(F.broadcast(others), _TEXT, "left_anti").count()

    def holding(self, *places: str) -> set[str]:
        """Names of those of the files that hold rows of the users.

        Names without their folders: Spark tells places in another form than the tables, and a data file's name occurs
        once.
        """
        return set(self._by_file(*places))

    def look(self, *places: str) -> Seen:
        """Look into files, or into all Parquet files below folders."""
        listed = self._listed(*places)
        try:
            return Seen(listed.count(), self._by_file(*places))
        except JAVA_ERRORS:
            unreadable = self._unreadable(listed, *places)
            if not unreadable:
                raise
            # What can be read is read again, where nothing is passed over.
            whole = [row["path"] for row in listed.collect() if row["name"] not in unreadable]
            return Seen(len(whole), self._by_file(*whole) if whole else {}, unreadable)

    def _by_file(self, *places: str) -> dict[str, int]:
        rows = self._theirs(self._rows(*places).select(self._user, _name("_metadata.file_path")))
        # At most a name for each of the files; none where the users are gone.
        return {row["name"]: row["count"] for row in rows.groupBy("name").count().collect()}

    def _unreadable(self, listed: DataFrame, *places: str) -> frozenset[str]:
        seen = self._rows(*places, torn=True).select(_name("_metadata.file_path")).distinct()
        return frozenset(row["name"] for row in listed.join(seen, "name", "left_anti").collect())


def _name(path: str) -> Column:
    return F.element_at(F.split(F.col(path), "/"), -1).alias("name")


def count_present(found: list[DataFrame]) -> int:
    """Number of different users in frames of ``StoredRows.present``."""
    if not found:
        return 0
    first, *others = found
    for other in others:
        first = first.unionByName(other)
    return first.distinct().count()
