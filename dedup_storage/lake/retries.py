"""How often something is run again that another process, or storage, got in the way of: every policy, by name."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from dedup_storage.errors import StorageError
from dedup_storage.words import counted

# Loaded where something is tried: where tornado is installed tenacity brings it along, which a look at files needs not.
if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying

__all__ = [
    "READS",
    "is_refusal",
    "is_transient",
    "passing_failures",
    "small_commits",
    "storage_failed",
    "storage_reads",
    "storage_refused",
    "storage_trouble",
    "unanswered_commits",
    "whole_publications",
    "with_retries",
]

P = ParamSpec("P")
T = TypeVar("T")
_logger = logging.getLogger(__name__)

# Attempts of a commit that changes little and is quickly made again.
_MANY, _FEW = 30, 5


def _twice_as_long(first: float, most: float) -> Callable[[RetryCallState], float]:
    """Random waits, in seconds, up to a bound that doubles with each attempt."""

    def wait(state: RetryCallState) -> float:
        from tenacity import wait_random_exponential

        return wait_random_exponential(multiplier=first, max=most)(state)

    return wait


# Writers that lost together do not come back together.
_WAIT = _twice_as_long(0.05, 2)
# Attempts of a read, and the waits between them.
READS = 5
_READ_WAIT = _twice_as_long(0.1, 5)
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, StorageError)
# Arrow reports damaged pages as OSError too; those have no errno, and name the format outside of any file's name.
_NAMES = re.compile(r"(?<!\w)'[^']*'|\"[^\"]*\"|\S*[/\\]\S*|\S+\.parquet\S*")
_DAMAGED = ("parquet", "corrupt", "deserializ", "decompress", "magic", "thrift", "checksum")
# Object stores say that they refuse in words too. S3 answers an ended token by status 400, to HEAD without any word.
_REFUSED = re.compile(
    r"ACCESS_DENIED|PERMISSION_DENIED|UNAUTHENTICATED|INVALID_(?:ACCESS_KEY_ID|CLIENT_TOKEN_ID|SIGNATURE)"
    r"|SIGNATURE_DOES_NOT_MATCH|MISSING_AUTHENTICATION_TOKEN|UNRECOGNIZED_CLIENT|(?:REQUEST|TOKEN)_EXPIRED"
    r"|HTTP status 40[013]\b|ExpiredToken|InvalidToken|AuthenticationFailed|AuthorizationFailure"
    r"|AuthorizationPermissionMismatch"
)


def small_commits(lost: Callable[[BaseException], bool], attempts: int = _MANY) -> Retrying:
    """For a change of few words, made again as long as others' commits come first; the last error is raised.

    Args:
        lost: Whether an error says that another commit came first.
        attempts: How often it is made at most.
    """
    return _trying(lost, attempts, _WAIT, reraise=True)


def whole_publications(
    lost: Callable[[BaseException], bool], attempts: int, give_up: Callable[[RetryCallState], Any]
) -> Retrying:
    """For a publication, which looks at everything anew after a lost race.

    Args:
        lost: Whether an error says so.
        attempts: ``write.conflict_retries`` and one.
        give_up: Called after the last; raises.
    """
    return _trying(lost, attempts, _WAIT, retry_error_callback=give_up)


def passing_failures(passing: Callable[[BaseException], bool]) -> Retrying:
    """For work that fails where something went while it looked, and succeeds when it looks again, at once.

    Args:
        passing: Whether an error says so.
    """
    return _trying(passing, _FEW, lambda state: 0.0, reraise=True)


def unanswered_commits(unseen: Callable[[BaseException], bool]) -> Retrying:
    """For a look whether a commit is there whose catalog did not answer; it may answer again, or the commit arrive.

    Args:
        unseen: Whether an error says that the commit was not seen, or that the look failed too.
    """
    return _trying(unseen, _FEW, _WAIT, reraise=True)


def _trying(
    again: Callable[[BaseException], bool], attempts: int, wait: Callable[[RetryCallState], float], **otherwise: Any
) -> Retrying:
    from tenacity import Retrying, retry_if_exception, stop_after_attempt

    return Retrying(retry=retry_if_exception(again), stop=stop_after_attempt(attempts), wait=wait, **otherwise)


def is_refusal(error: BaseException) -> bool:
    """Whether storage knows the file, or does not say, and does not let this process have it."""
    if not isinstance(error, OSError) or isinstance(error, StorageError):
        return False
    return isinstance(error, PermissionError) or _REFUSED.search(_NAMES.sub("", str(error))) is not None


def is_transient(error: BaseException) -> bool:
    """Whether reading again can help: an I/O error that does not say the file is missing, forbidden or damaged."""
    if not isinstance(error, OSError) or isinstance(error, _LASTING) or is_refusal(error):
        return False
    text = _NAMES.sub("", str(error)).lower()
    return error.errno is not None or not any(word in text for word in _DAMAGED)


def storage_reads(attempts: int = READS, again: Callable[[BaseException], bool] = is_transient) -> Retrying:
    """For a read that is made again, some seconds apart, while its error is transient; the last error is raised.

    Args:
        attempts: How often it is made at most.
        again: Whether an error is.
    """
    return _trying(again, attempts, _READ_WAIT, before_sleep=_log_retry, reraise=True)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    _logger.warning("Retrying in %.1f s: %s", state.upcoming_sleep, error)


def storage_failed(what: str, error: BaseException, attempts: int = READS) -> StorageError:
    """The error for a read that failed as often as it was tried.

    Args:
        what: What was read, to follow "storage failed n times while".
        error: The last failure, which is transient.
        attempts: How often it was tried.
    """
    return StorageError(
        f"storage failed {counted(attempts, 'time')} while {what}: {_reason(error)}",
        fix="Nothing is damaged. Run it again; an epoch resumes from state_dict().",
    )


def storage_refused(what: str, error: BaseException, fix: str | None = None) -> StorageError:
    """The error for a read that storage does not allow.

    Args:
        what: What was read, to follow "storage refused access while".
        error: What storage said.
        fix: Who can allow it; ``None`` where this process has its keys from its settings.
    """
    return StorageError(
        f"storage refused access while {what}: {_reason(error)}",
        fix=fix
        if fix is not None
        else "Let this process read it: by the folder's permissions, the keys s3.access-key-id, s3.secret-access-key "
        "and s3.session-token of catalog.properties, or the store's own environment variables.",
    )


def storage_trouble(
    what: str, error: BaseException, attempts: int = READS, fix: str | None = None
) -> StorageError | None:
    """The error for a read whose file is not to blame: storage failed or refused; ``None`` for any other error."""
    if is_transient(error):
        return storage_failed(what, error, attempts)
    return storage_refused(what, error, fix) if is_refusal(error) else None


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def with_retries(function: Callable[P, T]) -> Callable[P, T]:
    """A function that reads, made to try again by ``storage_reads``.

    Raises:
        StorageError: storage failed each time, or refused.
    """

    @wraps(function)
    def tried(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return storage_reads()(function, *args, **kwargs)
        except OSError as error:
            trouble = storage_trouble("metadata was read", error)
            if trouble is not None:
                raise trouble from error
            raise

    return tried
