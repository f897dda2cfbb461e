"""Every error the toolkit raises on purpose.

    DedupStorageError                  exit status 1
    ├── UsageError                     exit status 2: wrong input, nothing was changed
    │   ├── ConfigError                a setting is missing, unknown or malformed
    │   ├── SchemaError                the LogSchema does not fit the log, or is itself wrong
    │   ├── UnsafeNameError            a name that could not be an identifier
    │   ├── UnknownColumnError         a column that no table of the dataset has
    │   ├── InputError                 a raw log that cannot be read or breaks its contract
    │   │   ├── ConstancyError         a request-grain column differs inside a request
    │   │   ├── DuplicateRowsError     a key occurs more often than it may
    │   │   └── UnreadableFileError    a file is missing, damaged, or of another type
    │   ├── DatasetNotFoundError
    │   ├── DatasetExistsError
    │   ├── VersionNotFoundError
    │   ├── MissingDependencyError     an optional package or Java is not installed
    │   ├── ShuffleRefusedError        a join that must stay inside its buckets would move rows
    │   ├── InverseIndexError          an inverse index points outside its request rows
    │   └── StateMismatchError         a reader's saved state belongs to another configuration
    ├── QualityGateError               exit status 3: refused, nothing was published
    ├── ConflictError                  another run got there first; run again
    │   └── LostRacesError             others' commits came first each time; what the run has done is still of use
    ├── ForeignCommitError             a table was changed outside the toolkit
    ├── StuckPublicationError          a version was decided and can never be completed; it must be abandoned
    └── StorageError                   a file or a catalog could not be read or written
        └── UnknownCommitError         the catalog did not answer: the commit may be there or not

Each message says what happened, what was expected, what was found, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Self

__all__ = [
    "ConfigError",
    "ConflictError",
    "ConstancyError",
    "DatasetExistsError",
    "DatasetNotFoundError",
    "DedupStorageError",
    "DuplicateRowsError",
    "ForeignCommitError",
    "InputError",
    "InverseIndexError",
    "LostRacesError",
    "MissingDependencyError",
    "QualityGateError",
    "SchemaError",
    "ShuffleRefusedError",
    "StateMismatchError",
    "StorageError",
    "StuckPublicationError",
    "UnknownColumnError",
    "UnknownCommitError",
    "UnreadableFileError",
    "UnsafeNameError",
    "UsageError",
    "VersionNotFoundError",
    "known_names",
]


class DedupStorageError(Exception):
    """Base of every error raised on purpose.

    Args:
        what: What happened, naming the thing it happened to.
        expected: What was expected in its place.
        got: What was found.
        fix: What the reader of the message can do about it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.expected, self.got, self.fix = what, expected, got, fix
        parts = [what.rstrip(".")]
        if expected is not None:
            parts.append(f"expected {expected}")
        if got is not None:
            parts.append(f"got {got}")
        message = "; ".join(parts) + "."
        super().__init__(f"{message} {fix}" if fix else message)

    def advised(self, fix: str) -> Self:
        """The same error with one more sentence of advice."""
        advice = f"{self.fix} {fix}" if self.fix else fix
        return type(self)(self.what, expected=self.expected, got=self.got, fix=advice)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default protocol, and errors cross DataLoader workers.
        return (_rebuild, (type(self), self.what, self.expected, self.got, self.fix))


def _rebuild(
    kind: type[DedupStorageError], what: str, expected: str | None, got: str | None, fix: str | None
) -> DedupStorageError:
    return kind(what, expected=expected, got=got, fix=fix)


class UsageError(DedupStorageError):
    """Wrong usage or input; nothing was changed."""

    exit_code = 2


class ConfigError(UsageError, ValueError):
    """A setting is missing, unknown or malformed."""


class SchemaError(UsageError, ValueError):
    """The LogSchema does not fit the log, or is itself wrong."""


class UnsafeNameError(UsageError, ValueError):
    """A name that could not be an identifier."""


class UnknownColumnError(UsageError, LookupError):
    """A column that no table of the dataset has."""


class InputError(UsageError, ValueError):
    """A raw log that cannot be read or breaks its contract."""


class ConstancyError(InputError):
    """A request-grain column differs between the rows of one request."""


class DuplicateRowsError(InputError):
    """A key occurs more often than it may."""


class UnreadableFileError(InputError):
    """A file is missing, damaged, or of another type than it should be."""


class DatasetNotFoundError(UsageError, LookupError):
    """No dataset of that name in the catalog."""


class DatasetExistsError(UsageError, ValueError):
    """A dataset of that name is there already, and differs."""


class VersionNotFoundError(UsageError, LookupError):
    """The dataset has no such version."""


class MissingDependencyError(UsageError, ImportError):
    """An optional package, or Java, is not installed."""


class ShuffleRefusedError(UsageError):
    """A join that must stay inside its buckets would move rows."""


class InverseIndexError(UsageError, IndexError):
    """An inverse index points outside its request rows."""


class StateMismatchError(UsageError, ValueError):
    """A reader's saved state belongs to another dataset, version or configuration."""


class QualityGateError(DedupStorageError):
    """The quality gate refused the staged data; nothing was published."""

    exit_code = 3


class ConflictError(DedupStorageError):
    """Another run changed the same segments first; run this one again."""


class LostRacesError(ConflictError):
    """Other writers' commits came first each time; nothing contradicts the run, which goes on with the same run id."""


class ForeignCommitError(DedupStorageError):
    """A table of the dataset was changed by something other than the toolkit."""


class StuckPublicationError(DedupStorageError):
    """A version was decided, and what it needs is gone or fits no longer; waiting and running again do not help."""


class StorageError(DedupStorageError, OSError):
    """A file or a catalog could not be read or written."""


class UnknownCommitError(StorageError):
    """The catalog did not answer, so that a commit may be there or not; the run goes on with the same run id."""


def known_names(name: str, known: Iterable[str], *, most: int = 12) -> str:
    """Describe the names that do exist, the nearest first, for an error about one that does not.

    Example: ``known_names("usr", ["user_id", "item"])`` -> ``"one of user_id, item"``
    """
    names = list(dict.fromkeys(known))
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    ordered = near + [n for n in names if n not in near]
    listed = ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")
    return f"one of {listed}" if ordered else "no names at all"
