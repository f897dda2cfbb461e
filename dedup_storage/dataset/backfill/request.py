"""What to recompute, and for whom."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from hashlib import sha256

from pyspark.sql import DataFrame

from dedup_storage.errors import UsageError
from dedup_storage.lake.engine.sessions import move_to, run_session
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.requests import NOTHING, Request
from dedup_storage.schema import check_name
from dedup_storage.spark.digests import function_digest, rows_digest

__all__ = ["Affected", "Change", "Strategy"]

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


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
        function: Gets the affected rows, returns rows with the table's keys and the columns ``columns``; what it
            returns of other rows changes nothing.
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
        # What names nothing is refused: whoever names it expects that it counts.
        idle = {
            "columns": (self.columns and self.expressions, "beside expressions, which name their columns"),
            "inputs": (self.inputs and self.function is None, "without a function, which alone is given them"),
        }
        for option, (named, why) in idle.items():
            if named:
                raise UsageError(f"{option} does nothing {why}", fix=f"Leave out {option}.")
        for name in self.names:
            check_name(name, "column name")
        if not self.names:
            raise UsageError("no column to backfill is named", fix="Name the columns that the function or rows bring.")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that change."""
        return tuple(self.expressions) if self.expressions else self.columns

    def described(self) -> dict[str, object]:
        """Plain values that tell one change from another, as far as earlier releases did: no rows, no code."""
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
        for day in (self.first_date, self.last_date):
            if day is not None and not _is_date(day):
                raise UsageError("an event date is not valid", expected="a date such as 2024-01-31", got=repr(day)[:40])
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


def _is_date(text: object) -> bool:
    try:
        return isinstance(text, str) and _DATE.fullmatch(text) is not None and bool(date.fromisoformat(text))
    except ValueError:
        return False


def backfill_request(
    job: str, change: Change, affected: Affected, meta: DatasetMetadata, keys: Sequence[str]
) -> Request:
    """What a backfill is asked to do; reads replacement rows and a frame of users once.

    Args:
        job: Name of the job.
        change: What to recompute.
        affected: For whom.
        meta: The dataset.
        keys: Keys of the table that holds the columns.
    """
    users, rows = affected.users, change.rows
    listed = None if users is None or isinstance(users, DataFrame) else sorted(map(str, users))
    request = Request.of(
        job,
        columns=sorted(change.names),
        expressions=dict(change.expressions),
        inputs=change.inputs,
        users=listed,
        condition=affected.where,
        changed_since=affected.changed_since,
        first_date=affected.first_date,
        last_date=affected.last_date,
        sample=None if affected.sample is None else [affected.sample, meta.samples.get(affected.sample)],
    )
    if isinstance(users, DataFrame):
        user = meta.spec.schema_.user
        request = request.with_texts(users=_rows(users, {user if user in users.columns else users.columns[0]}))
    return request.with_texts(
        function=NOTHING if change.function is None else function_digest(change.function),
        replacement_rows=NOTHING if rows is None else _rows(rows, {*keys, *change.names} & {*rows.columns}),
    )


def _rows(frame: DataFrame, columns: set[str]) -> str:
    # Texts of times inside nested values depend on the zone of a session.
    return rows_digest(move_to(run_session(frame.sparkSession), frame), columns)


def former_digest(change: Change, affected: Affected) -> str:
    """What earlier releases kept with a run's parts instead of the request; its parts may still be there."""
    return _digest([json.dumps({**change.described(), **affected.described()}, sort_keys=True)])


def _digest(texts: Iterable[str]) -> str:
    return sha256("\n".join(texts).encode()).hexdigest()[:16]
