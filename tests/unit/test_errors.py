"""What Spark and Java raise, told apart by class: conflicts, commits of unknown state, storage trouble, wrong input."""

from __future__ import annotations

from typing import Any

import pytest
from py4j.protocol import Py4JJavaError

from dedup_storage.errors import (
    ConflictError,
    DedupStorageError,
    InputError,
    LostRacesError,
    QualityGateError,
    StorageError,
    UnknownCommitError,
    UnreadableFileError,
)
from dedup_storage.lake.branch import is_worthless
from dedup_storage.lake.retries import whole_publications
from dedup_storage.spark.errors import is_conflict, is_gone, translate


class Thrown:
    """A Java exception as Py4J shows it."""

    _target_id = "o1785"

    def __init__(self, name: str, message: str | None, cause: Thrown | None = None) -> None:
        self._name, self._message, self._cause = name, message, cause

    def getClass(self) -> Thrown:  # noqa: N802 - Java's names
        return self

    def getName(self) -> str:  # noqa: N802
        return self._name

    def getMessage(self) -> str | None:  # noqa: N802
        return self._message

    def getCause(self) -> Thrown | None:  # noqa: N802
        return self._cause


def raised(*chain: tuple[str, str | None]) -> Py4JJavaError:
    """What Py4J raises for exceptions that caused one another, outermost first."""
    cause: Any = None
    for name, message in reversed(chain):
        cause = Thrown(name, message, cause)
    return Py4JJavaError("An error occurred while calling o1785.cherrypick.\n", cause)


ICEBERG = "org.apache.iceberg.exceptions."
UNAVAILABLE = ("java.lang.RuntimeException", "Server error: 503 Service Unavailable")


@pytest.mark.parametrize(
    ("chain", "kind"),
    [
        ([(ICEBERG + "CommitFailedException", "Branch main has changed")], ConflictError),
        ([(ICEBERG + "ValidationException", "Missing required files to delete")], ConflictError),
        ([(ICEBERG + "DuplicateWAPCommitException", "Duplicate request")], ConflictError),
        ([("io.delta.exceptions.ConcurrentAppendException", "Files were added")], ConflictError),
        ([("org.apache.spark.sql.delta.DeltaConcurrentModificationException", None)], ConflictError),
        ([("io.delta.exceptions.MetadataChangedException", "The metadata was changed")], ConflictError),
        # Java's own class of that name tells of a fault in a program.
        ([("java.util.ConcurrentModificationException", None)], StorageError),
        ([(ICEBERG + "CommitStateUnknownException", "Cannot determine"), UNAVAILABLE], UnknownCommitError),
        ([("org.apache.spark.SparkException", "Writing job failed"), (ICEBERG + "CommitStateUnknownException", None)],
         UnknownCommitError),
        ([(ICEBERG + "ServiceUnavailableException", "503")], StorageError),
        ([(ICEBERG + "RuntimeIOException", "Failed to read"), ("java.net.SocketTimeoutException", "Read timed out")],
         StorageError),
        ([("org.apache.iceberg.jdbc.UncheckedSQLException", "Unknown failure"), ("org.sqlite.SQLiteException", "BUSY")],
         StorageError),
        ([("java.lang.RuntimeException", "file:/x/a.parquet is not a Parquet file")], UnreadableFileError),
        ([("org.apache.spark.sql.AnalysisException", "[PATH_NOT_FOUND] Path does not exist: file:/x.")],
         UnreadableFileError),
    ],
)  # fmt: skip
def test_the_class_decides(chain: list[tuple[str, str | None]], kind: type[DedupStorageError]) -> None:
    told = translate(raised(*chain))
    assert type(told) is kind
    assert is_conflict(raised(*chain)) is (kind is ConflictError)
    # Py4J's own text names an object of its own, nothing that a reader knows.
    assert "o1785" not in str(told)


AWS = "software.amazon.awssdk.services.s3.model."
HEAD = "(Service: S3, Status Code: 404, Request ID: jGxE) (SDK Attempt Count: 1)"


@pytest.mark.parametrize(
    ("chain", "what"),
    [
        # A file's length is asked without its content, and answered without a reason.
        ([(AWS + "NoSuchKeyException", HEAD)], "a file that a table names is not there"),
        ([(AWS + "NoSuchKeyException", f"null {HEAD}")], "a file that a table names is not there"),
        ([("org.apache.spark.SparkException", f"Job aborted: task 0.0 failed: {AWS}NoSuchKeyException: null {HEAD}")],
         "a file that a table names is not there"),
        ([(ICEBERG + "NotFoundException", "Location does not exist: s3://b/m/snap-1.avro"),
          (AWS + "NoSuchKeyException", "The specified key does not exist.")],
         "the file s3://b/m/snap-1.avro is not there"),
    ],
)  # fmt: skip
def test_a_file_that_went_is_told_with_what_to_do(chain: list[tuple[str, str | None]], what: str) -> None:
    """Maintenance beside runs that drop their own snapshots was told a number and a request's id."""
    error = raised(*chain)
    assert is_gone(error)
    told = translate(error)
    assert (type(told), told.what) == (StorageError, what)
    assert "run the job again with the same run id" in str(told)
    assert "got (Service" not in str(told)


def test_a_store_that_gives_no_reason_is_told_as_such() -> None:
    error = raised((AWS + "S3Exception", HEAD.replace("404", "403")))
    assert not is_gone(error)
    assert translate(error).what.startswith("the store gave no reason (Service: S3, Status Code: 403")


@pytest.mark.parametrize(
    ("error", "worthless"),
    [
        (ConflictError("another run changed the segments"), True),
        (QualityGateError("the gate refused"), True),
        (InputError("an expression failed on a row"), True),
        (LostRacesError("others came first"), False),
        (UnreadableFileError("a file is away for a moment"), False),
        (StorageError("the disk is full"), False),
        (UnknownCommitError("the catalog did not answer"), False),
    ],
)
def test_parts_are_kept_unless_they_can_never_be_published(error: DedupStorageError, worthless: bool) -> None:
    assert is_worthless(error) is worthless
    advised = error.advised("Run it again.")
    assert (type(advised), str(advised)) == (type(error), f"{error} Run it again.")


def test_a_publication_that_gives_up_says_why() -> None:
    from dedup_storage.lake.publishing import LostRaceError, PublisherBase

    def given_up(cause: Exception) -> DedupStorageError:
        def give_up(state: Any) -> Any:
            return PublisherBase._give_up(Publisher(), state)  # type: ignore[arg-type]

        def lose() -> None:
            raise LostRaceError(str(cause.args[0])) from cause

        with pytest.raises(DedupStorageError) as told:
            whole_publications(lambda error: isinstance(error, LostRaceError), 1, give_up)(lose)
        return told.value

    class Publisher:
        raced_for = "catalog"

    lost = given_up(raised((ICEBERG + "CommitFailedException", "Branch main has changed\n\tat org.apache")))
    assert str(lost) == (
        "the publication lost the race for the catalog 1 times; got Branch main has changed. "
        "Run the job again with the same run id."
    )
    assert type(lost) is LostRacesError
    # Of two that name a version the later finds the tag there.
    taken = given_up(raised(("java.lang.IllegalArgumentException", "Ref claim-v2 already exists")))
    assert type(taken) is LostRacesError
    away = given_up(
        raised(("org.apache.iceberg.jdbc.UncheckedSQLException", None), ("org.sqlite.X", "database is locked"))
    )
    assert type(away) is StorageError
    assert str(away).startswith("database is locked. Run the job again with the same run id")
