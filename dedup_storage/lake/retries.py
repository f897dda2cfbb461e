"""How often something is run again that another process got in the way of: every policy, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

__all__ = ["passing_failures", "small_commits", "whole_publications"]

# Attempts of a commit that changes little and is quickly made again.
_MANY, _FEW = 30, 5
# Seconds: writers that lost together wait for random times, twice as long each time.
_WAIT = wait_random_exponential(multiplier=0.05, max=2)


def small_commits(lost: Callable[[BaseException], bool]) -> Retrying:
    """For a change of few words, made again as long as others' commits come first; the last error is raised.

    Args:
        lost: Whether an error says that another commit came first.
    """
    return Retrying(retry=retry_if_exception(lost), stop=stop_after_attempt(_MANY), wait=_WAIT, reraise=True)


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
