"""Turn Spark's and Java's exceptions into the toolkit's own, one readable sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException

from dedup_storage.errors import (
    ConflictError,
    DedupStorageError,
    InputError,
    MissingDependencyError,
    StorageError,
    UnknownColumnError,
    UnknownCommitError,
    UnreadableFileError,
)
from dedup_storage.spark.raising import raised_input

__all__ = [
    "ENGINE_ERRORS",
    "JAVA_ERRORS",
    "commit_unknown",
    "is_conflict",
    "is_gone",
    "is_trouble",
    "java_class",
    "root_message",
    "translate",
    "translated",
]

# What a call into Java raises, as Py4J brings it or as Spark has translated it.
JAVA_ERRORS = (Py4JJavaError, PySparkException)
# The same, and a connection to Java that broke.
ENGINE_ERRORS = (Py4JError, PySparkException)

_PATH = re.compile(r"(?:file|s3a?|gs|abfss?|hdfs|wasbs?)(?::/{1,3})[^\s,;'\"\])]+")
_MISMATCH = re.compile(r"Parquet column \[(.+?)\]\. Expected Spark type ([^,]+), actual Parquet type (.+?)\.\s")
_ILLEGAL = re.compile(r"Illegal Parquet type: (.+?)\.")
# What the engines raise when another commit came first, or changed what a commit rests on.
_CONFLICTS = {
    "CommitFailedException",
    "ValidationException",
    "CherrypickAncestorCommitException",
    "DuplicateWAPCommitException",
}
_DELTA_CONFLICT = re.compile(r".*delta.*\.(?:Delta)?(?:Concurrent|MetadataChanged|ProtocolChanged)\w*Exception")
# Files, networks, catalogs. Two of Java's I/O classes tell of programs, not of storage.
_STORAGE = re.compile(
    r"java\.(?:io|net|nio\.file|sql)\.(?!NotSerializable|InvalidClass)\w+|org\.(?:sqlite|postgresql)\..+"
    r"|org\.apache\.hadoop\.(?:fs|ipc|net|security)\..+|software\.amazon\.awssdk\..+|com\.amazonaws\..+"
    r"|org\.apache\.iceberg\.(?:jdbc\.Unchecked\w+|exceptions\.(?:NotFound|NotAuthorized|Forbidden|REST|RuntimeIO"
    r"|ServiceFailure|ServiceUnavailable)Exception)"
)
# Iceberg's word for a table whose files others may name; the class of the error is that of conflicts.
_KEPT_FILES = "GC is disabled"
# A file that is not there: as Iceberg says it, and as S3 does to whoever asks for its length alone.
_GONE = re.compile(
    r"org\.apache\.iceberg\.exceptions\.NotFoundException"
    r"|software\.amazon\.awssdk\.services\.s3\.model\.NoSuchKeyException"
)
# S3 gives no reason with the answer to such a question.
_UNEXPLAINED = ("(Service: ", "null (Service: ")
_TORN = ("is not a parquet file", "not a parquet file", "cannot read footer", "could not read footer", "malformed")


def _causes(error: Py4JJavaError) -> Iterator[tuple[str, str]]:
    cause = error.java_exception
    for _ in range(20):
        if cause is None:
            return
        yield cause.getClass().getName(), str(cause.getMessage() or "")
        cause = cause.getCause()


def _chain(error: BaseException) -> list[tuple[str, str]]:
    """(class, message) of the error and its causes, outermost first."""
    if isinstance(error, Py4JJavaError):
        return list(_causes(error))
    if isinstance(error, PySparkException):
        chain = [(type(error).__name__, str(error))]
        origin = getattr(error, "_origin", None)
        if isinstance(origin, Py4JJavaError):
            chain += list(_causes(origin))
        return chain
    return [(type(error).__name__, str(error))]


def java_class(error: BaseException) -> set[str]:
    """Simple class names of the error and its causes."""
    return {name.rsplit(".", 1)[-1] for name, _ in _chain(error)}


def is_conflict(error: BaseException) -> bool:
    """Whether another commit came before a commit, or changed what it rests on; not where nobody can tell."""
    if isinstance(error, ConflictError):
        return True
    if commit_unknown(error) or _keeps_files(error):
        return False
    names = [name for name, _ in _chain(error)]
    return bool(_CONFLICTS & java_class(error)) or any(_DELTA_CONFLICT.fullmatch(name) for name in names)


def _keeps_files(error: BaseException) -> bool:
    """Whether Iceberg refuses to remove files of a table, by the table's own property."""
    return any(_KEPT_FILES in message for _, message in _chain(error))


def commit_unknown(error: BaseException) -> bool:
    """Whether the catalog did not say if a commit is there: to be looked up, not to be taken for lost."""
    return isinstance(error, UnknownCommitError) or "CommitStateUnknownException" in java_class(error)


def is_gone(error: BaseException) -> bool:
    """Whether a file is not there that a table names, or named a moment ago."""
    # Of what a task met, Spark may tell the text alone.
    return any(_GONE.search(text) for entry in _chain(error) for text in entry)


def is_trouble(error: BaseException) -> bool:
    """Whether files, a network or a catalog failed, and no other commit is to blame as far as anybody knows."""
    failed = any(_STORAGE.fullmatch(name) for name, _ in _chain(error))
    return commit_unknown(error) or (failed and not is_conflict(error))


def root_message(error: BaseException) -> str:
    """First line of the innermost message, without a stack trace."""
    for _, message in reversed(_chain(error)):
        line = message.strip().splitlines()[0] if message.strip() else ""
        if line.startswith(_UNEXPLAINED):
            line = f"the store gave no reason {line.removeprefix('null ')}"
        if line:
            return line[:400]
    return type(error).__name__


def translate(error: BaseException) -> DedupStorageError:
    """The toolkit's error for an exception of Spark or Java."""
    if isinstance(error, DedupStorageError):
        return error
    chain = _chain(error)
    text = "\n".join(message for _, message in chain)
    refused = raised_input(text)
    if refused is not None:
        return refused
    low = text.lower()
    classes = java_class(error)
    condition = error.getCondition() if isinstance(error, PySparkException) else None
    if commit_unknown(error):
        return UnknownCommitError(
            f"the catalog did not answer, so the commit may be there or not: {root_message(error)}",
            fix="Run the job again with the same run id: it looks, and goes on from there.",
        )
    if _keeps_files(error):
        return StorageError(
            "a table's files may not be removed: its property gc.enabled is false, as another tool set it",
            got=root_message(error),
            fix="See that no other table names them, then ALTER TABLE … SET TBLPROPERTIES ('gc.enabled' = 'true'), and "
            "run the job again with the same run id.",
        )
    if is_conflict(error):
        return ConflictError(f"another writer was faster: {root_message(error)}", fix="Run the job again.")
    place = _PATH.search(text)
    file = f" {place.group(0)}" if place else ""
    if condition == "PATH_NOT_FOUND" or "path does not exist" in low:
        return UnreadableFileError(f"there is no file at{file or ' the path given'}", fix="Check the path.")
    if condition == "UNABLE_TO_INFER_SCHEMA" or "unable to infer schema" in low:
        return UnreadableFileError("the input holds no readable file", fix="Check the path and --format.")
    if any(mark in low for mark in _TORN):
        return UnreadableFileError(
            f"the file{file} cannot be read: {root_message(error)}", fix="Replace or remove the damaged file."
        )
    mismatch = _MISMATCH.search(text)
    if mismatch:
        column, expected, got = mismatch.groups()
        return UnreadableFileError(
            f"the column {column} of the file{file} cannot be read",
            expected=expected,
            got=got,
            fix=f"Cast the column {column} in the log, so that it has one type in every file.",
        )
    if "FAILED_READ_FILE" in text:
        return UnreadableFileError(
            f"the file{file} cannot be read: {root_message(error)}",
            fix="The file may be whole: see whether Spark reads its types, and whether it is still there.",
        )
    if is_gone(error):
        return StorageError(
            f"the file{file} is not there" if file else "a file that a table names is not there",
            got=root_message(error),
            fix="Another run may have removed it meanwhile: run the job again with the same run id. "
            "If it is told again, see what dedup-storage check finds.",
        )
    illegal = _ILLEGAL.search(text)
    if illegal:
        return InputError(
            f"a column has a type that Spark does not read: {illegal.group(1)}", fix="Cast the column in the log."
        )
    if condition and condition.startswith("UNRESOLVED_COLUMN"):
        return UnknownColumnError(root_message(error))
    if condition == "TABLE_OR_VIEW_NOT_FOUND":
        return InputError(root_message(error), fix="Check the table's name and the catalog.")
    if "DeltaInvariantViolationException" in classes:
        return InputError(f"a row breaks a constraint of its table: {root_message(error)}")
    if "find the data source: delta" in low or ("ClassNotFoundException" in classes and "delta" in low):
        return MissingDependencyError(
            "Spark does not find Delta", fix="Set format: delta in the configuration that the session is started with."
        )
    if "ClassNotFoundException" in classes and "iceberg" in low:
        return MissingDependencyError(
            "Spark does not find Iceberg", fix="Name iceberg-spark-runtime in spark.packages of the configuration."
        )
    if isinstance(error, PySparkException) and condition and not is_trouble(error):
        return InputError(root_message(error))
    return StorageError(root_message(error))


@contextmanager
def translated() -> Iterator[None]:
    """Raise the toolkit's error in place of Spark's.

    Raises:
        DedupStorageError: whenever Spark or Java raised.
    """
    try:
        yield
    except DedupStorageError:
        raise
    except ENGINE_ERRORS as error:
        raise translate(error) from error
