"""Retries with backoff for storage that fails for a moment."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tenacity import before_sleep_log, retry, retry_if_exception, stop_after_attempt, wait_random_exponential

__all__ = ["ATTEMPTS", "is_transient", "with_retries"]

P = ParamSpec("P")
T = TypeVar("T")
ATTEMPTS = 5
_logger = logging.getLogger(__name__)
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)


def is_transient(error: BaseException) -> bool:
    """Whether trying again can help: an I/O error that does not say the file is missing, forbidden or corrupted."""
    if not isinstance(error, OSError) or isinstance(error, _LASTING):
        return False
    # Arrow reports damaged pages as OSError too; those have no errno and name the format.
    text = str(error).lower()
    return not any(word in text for word in ("parquet", "corrupt", "deserializ", "decompress", "magic", "thrift"))


def with_retries(function: Callable[P, T]) -> Callable[P, T]:
    """Try again up to five times, 0.1 to 5 seconds apart, while the error is transient; then let it out."""
    return retry(
        retry=retry_if_exception(is_transient),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        before_sleep=before_sleep_log(_logger, logging.WARNING),
        reraise=True,
    )(function)
