"""New values in the types of the columns that they are for: what a column cannot hold is refused, never cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructType

from dedup_storage.errors import InputError
from dedup_storage.sources.held import declared_type, held, lost
from dedup_storage.spark.raising import raise_input
from dedup_storage.spark.rows import only_row
from dedup_storage.words import counted

__all__ = ["NewValues"]

_LONGEST_TYPE = 80


@dataclass(frozen=True)
class NewValues:
    """Values for columns of one table.

    Attributes:
        table: Its name.
        stored: Its columns as they are stored.
        types: Column of the log -> Spark DDL type, which may be narrower than the stored one.
    """

    table: str
    stored: StructType
    types: Mapping[str, str]

    def typed(self, frame: DataFrame, source: str, column: str) -> Column:
        """A column of a frame as values of a column of the table; one that it cannot hold ends the run.

        Args:
            frame: New values.
            source: Column of the frame.
            column: Column of the table.
        """
        value, kind, wanted = frame[source], frame.schema[source].dataType, self._wanted(column)
        made, flag = held(value, kind, wanted), lost(value, kind, wanted)
        if flag is not None:
            told = self._told(column, "a new value")
            refusal = raise_input(*told, example=F.lit(kind.simpleString()), most=_LONGEST_TYPE)
            made = F.when(flag, refusal).otherwise(made)
        return made.cast(self.stored[column].dataType)

    def refuse_lost(self, frame: DataFrame, sources: Mapping[str, str]) -> None:
        """Count the values that their columns cannot hold, where the types do not say that all fit.

        Args:
            frame: New values.
            sources: Column of the table -> column of the frame.

        Raises:
            InputError: tells how many of which column, and none of them.
        """
        kinds = {column: frame.schema[source].dataType for column, source in sources.items()}
        flags = {c: lost(F.col(source), kinds[c], self._wanted(c)) for c, source in sources.items()}
        counts = [F.count_if(flag).alias(c) for c, flag in flags.items() if flag is not None]
        if not counts:
            return
        for column, count in only_row(frame.agg(*counts)).asDict().items():
            if count:
                what, expected, fix = self._told(column, counted(count, "new value"))
                raise InputError(what, expected=expected, got=kinds[column].simpleString(), fix=fix)

    def _wanted(self, column: str) -> DataType:
        return declared_type(self.types, column, self.stored[column].dataType)

    def _told(self, column: str, values: str) -> tuple[str, str, str]:
        """What happened, what was expected, what to do."""
        kind = self._wanted(column).simpleString()
        return (
            f"the column {column} of {self.table} cannot hold {values}",
            f"values that {kind} holds as they are",
            f"Nothing was published. Round them, or cast them to {kind} where they are made.",
        )
