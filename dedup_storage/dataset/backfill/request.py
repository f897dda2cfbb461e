"""What to recompute, and for whom."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256

from pyspark.sql import DataFrame

from dedup_storage.errors import UsageError
from dedup_storage.schema import check_name

__all__ = ["Affected", "Change", "Strategy"]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class Strategy(StrEnum):
    """How a segment's rows are replaced.

    ``overwrite``
        all files of the segment are written anew, sorted.
    ``copy-on-write``
        the files that hold affected rows are written anew.
    ``merge-on-read``
        affected rows are written to a new file and deletion vectors hide the old ones.
    """

    OVERWRITE = "overwrite"
    COPY_ON_WRITE = "copy-on-write"
    MERGE_ON_READ = "merge-on-read"


@dataclass(frozen=True)
class Change:
    """New values of columns, from exactly one source.

    Attributes:
        expressions: Column -> SQL expression over the table's columns and those of its request.
        function: Gets the affected rows, returns rows with the table's keys and the columns ``columns``.
        rows: Replacement rows: the table's keys and new columns.
        columns: The columns that ``function`` or ``rows`` bring.
        inputs: Columns that ``function`` needs; the table's own when left out.
    """

    expressions: Mapping[str, str] = field(default_factory=dict)
    function: Callable[[DataFrame], DataFrame] | None = None
    rows: DataFrame | None = None
    columns: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sources = sum((bool(self.expressions), self.function is not None, self.rows is not None))
        if sources != 1:
            raise UsageError(
                "what to backfill is not clear",
                expected="one of expressions, a function, or replacement rows",
                got=f"{sources} of them",
            )
        for name in self.names:
            check_name(name, "column name")
        if not self.names:
            raise UsageError("no column to backfill is named", fix="Name the columns that the function or rows bring.")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that change."""
        return tuple(self.expressions) if self.expressions else self.columns

    def described(self) -> dict[str, object]:
        """Plain values that tell one change from another; a frame's rows are not among them."""
        function = self.function
        name = (
            None
            if function is None
            else f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
        )
        return {
            "columns": list(self.names),
            "expressions": dict(self.expressions),
            "function": name,
            "rows": self.rows is not None,
        }


@dataclass(frozen=True)
class Affected:
    """The rows whose values are recomputed: those that every given condition holds for.

    Attributes:
        users: User ids, or a frame with the user column (its first column when it has only one).
        where: SQL predicate over the table's columns.
        changed_since: Users with rows in files that a later version than this one brought.
        first_date, last_date: Event dates (ISO), both included.
        sample: A named sample of the dataset: its users, and its event dates where it has any.
    """

    users: Sequence[int | str] | DataFrame | None = None
    where: str | None = None
    changed_since: int | None = None
    first_date: str | None = None
    last_date: str | None = None
    sample: str | None = None

    def __post_init__(self) -> None:
        for date in (self.first_date, self.last_date):
            if date is not None and not _DATE.fullmatch(date):
                raise UsageError(
                    "an event date is not valid", expected="a date such as 2024-01-31", got=repr(date[:40])
                )
        if self.first_date and self.last_date and self.last_date < self.first_date:
            raise UsageError(
                "the last event date comes before the first", expected=f"{self.first_date} or later", got=self.last_date
            )
        if isinstance(self.users, (list, tuple, set, frozenset)) and not self.users:
            raise UsageError("the list of users is empty")

    @property
    def everything(self) -> bool:
        """Whether no condition is given."""
        return self == Affected()

    def described(self) -> dict[str, object]:
        """Plain values that tell one selection from another; user ids only as a digest."""
        users: object = None
        if isinstance(self.users, DataFrame):
            users = "a table"
        elif self.users is not None:
            users = _digest(sorted(map(str, self.users)))
        return {
            "users": users,
            "where": self.where,
            "changed_since": self.changed_since,
            "dates": [self.first_date, self.last_date],
            **({"sample": self.sample} if self.sample is not None else {}),
        }


def digest(change: Change, affected: Affected) -> str:
    """A short text that differs between requests; kept with a run's parts, so that no other request goes on there."""
    return _digest([json.dumps({**change.described(), **affected.described()}, sort_keys=True)])


def _digest(texts: Iterable[str]) -> str:
    return sha256("\n".join(texts).encode()).hexdigest()[:16]
