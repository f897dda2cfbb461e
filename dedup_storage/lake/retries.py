"""How often something is run again that another process, or storage, got in the way of: every policy, by name."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    before_sleep_log,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from dedup_storage.errors import StorageError
from dedup_storage.words import counted

__all__ = [
    "READS",
    "is_transient",
    "passing_failures",
    "small_commits",
    "storage_failed",
    "storage_reads",
    "unanswered_commits",
    "whole_publications",
    "with_retries",
]

P = ParamSpec("P")
T = TypeVar("T")
_logger = logging.getLogger(__name__)

# Attempts of a commit that changes little and is quickly made again.
_MANY, _FEW = 30, 5
# Seconds: writers that lost together wait for random times, twice as long each time.
_WAIT = wait_random_exponential(multiplier=0.05, max=2)
# Attempts of a read, and the seconds between them.
READS = 5
_READ_WAIT = wait_random_exponential(multiplier=0.1, max=5)
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, StorageError)
# Arrow reports damaged pages as OSError too; those have no errno, and name the format outside of any file's name.
_NAMES = re.compile(r"(?<!\w)'[^']*'|\"[^\"]*\"|\S*[/\\]\S*|\S+\.parquet\S*")
_DAMAGED = ("parquet", "corrupt", "deserializ", "decompress", "magic", "thrift")


def small_commits(lost: Callable[[BaseException], bool], attempts: int = _MANY) -> Retrying:
    """For a change of few words, made again as long as others' commits come first; the last error is raised.

    Args:
        lost: Whether an error says that another commit came first.
        attempts: How often it is made at most.
    """
    return Retrying(retry=retry_if_exception(lost), stop=stop_after_attempt(attempts), wait=_WAIT, reraise=True)


def whole_publications(
    lost: Callable[[BaseException], bool], attempts: int, give_up: Callable[[RetryCallState], Any]
) -> Retrying:
    """For a publication, which looks at everything anew after a lost race.

    Args:
        lost: Whether an error says so.
        attempts: ``write.conflict_retries`` and one.
        give_up: Called after the last; raises.
    """
    return Retrying(
        retry=retry_if_exception(lost), stop=stop_after_attempt(attempts), wait=_WAIT, retry_error_callback=give_up
    )


def passing_failures(passing: Callable[[BaseException], bool]) -> Retrying:
    """For work that fails where something went while it looked, and succeeds when it looks again, at once.

    Args:
        passing: Whether an error says so.
    """
    return Retrying(retry=retry_if_exception(passing), stop=stop_after_attempt(_FEW), reraise=True)


def unanswered_commits(unseen: Callable[[BaseException], bool]) -> Retrying:
    """For a look whether a commit is there whose catalog did not answer; it may answer again, or the commit arrive.

    Args:
        unseen: Whether an error says that the commit was not seen, or that the look failed too.
    """
    return Retrying(retry=retry_if_exception(unseen), stop=stop_after_attempt(_FEW), wait=_WAIT, reraise=True)


def is_transient(error: BaseException) -> bool:
    """Whether reading again can help: an I/O error that does not say the file is missing, forbidden or damaged."""
    if not isinstance(error, OSError) or isinstance(error, _LASTING):
        return False
    text = _NAMES.sub("", str(error)).lower()
    return error.errno is not None or not any(word in text for word in _DAMAGED)


def storage_reads(attempts: int = READS) -> Retrying:
    """For a read that is made again, some seconds apart, while its error is transient; the last error is raised."""
    return Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_attempt(attempts),
        wait=_READ_WAIT,
        before_sleep=before_sleep_log(_logger, logging.WARNING),
        reraise=True,
    )


def storage_failed(what: str, error: BaseException, attempts: int = READS) -> StorageError:
    """The error for a read that failed as often as it was tried.

    Args:
        what: What was read, to follow "storage failed n times while".
        error: The last failure, which is transient.
        attempts: How often it was tried.
    """
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return StorageError(
        f"storage failed {counted(attempts, 'time')} while {what}: {reason}",
        fix="Nothing is damaged. Run it again; an epoch resumes from state_dict().",
    )


def with_retries(function: Callable[P, T]) -> Callable[P, T]:
    """A function that reads, made to try again by ``storage_reads``.

    Raises:
        StorageError: storage failed each time.
    """

    @wraps(function)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return storage_reads()(function, *args, **kwargs)
        except OSError as error:
            if is_transient(error):
                raise storage_failed("metadata was read", error) from error
            raise

    return tried
