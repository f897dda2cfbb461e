"""Users in Parquet files, whatever table or version names these: the one look that hides nothing."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

__all__ = ["StoredRows"]


class StoredRows:
    """Rows of some users in Parquet files, rows that deletion vectors hide included.

    Args:
        session: Reads the files.
        users: The users, one column in the type and with the name that the files have.
    """

    def __init__(self, session: SparkSession, users: DataFrame) -> None:
        self._session, self._users = session, users
        (self._user,) = users.columns

    def _rows(self, *places: str) -> DataFrame:
        kind = self._users.schema[self._user].dataType.simpleString()
        reader = self._session.read.schema(f"`{self._user}` {kind}").option("recursiveFileLookup", "true")
        return reader.option("pathGlobFilter", "*.parquet").parquet(*places)

    def _theirs(self, rows: DataFrame) -> DataFrame:
        return rows.join(F.broadcast(self._users), self._user, "left_semi")

    def count(self, *places: str) -> int:
        """Rows of the users in files, or in all Parquet files below folders."""
        return self._theirs(self._rows(*places)).count()

    def holding(self, *places: str) -> set[str]:
        """Names of those of the files that hold rows of the users.

        Names without their folders: Spark tells places in another form than the tables, and a data file's name occurs
        once.
        """
        name = F.element_at(F.split(F.col("_metadata.file_path"), "/"), -1)
        rows = self._theirs(self._rows(*places).select(self._user, name.alias("name")))
        # At most a name for each of the files.
        return {row["name"] for row in rows.select("name").distinct().collect()}
