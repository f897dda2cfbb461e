"""The receiver of events, by OpenLineage's own client: bounded in time, and never a reason for a job to fail."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dedup_storage.config import Settings
from dedup_storage.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

__all__ = ["Receiver"]

_logger = logging.getLogger(__name__)
# Seconds: a receiver that does not answer may hold up a run by no more than a few of these.
_TIMEOUT = 3.0
_CLOSING = 5.0
# By default the client tries five times, waiting longer each time.
_RETRY = {"total": 1, "connect": 1, "read": 0, "status": 1, "backoff_factor": 0.2}


class Receiver:
    """Takes events, or says once that it does not.

    Args:
        settings: Settings; ``lineage.transport`` says which receiver.

    Raises:
        MissingDependencyError: ``openlineage-python``, or what the transport needs, is not installed.
        ConfigError: OpenLineage takes no such transport. No value of it is repeated.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            from openlineage.client import OpenLineageClient
            from openlineage.client.transport import get_default_factory
        except ModuleNotFoundError:
            raise MissingDependencyError(
                "lineage.transport is set, and the package openlineage-python is not installed",
                fix="Run pip install 'dedup_storage[lineage]', or remove the section lineage.",
            ) from None
        given = _bounded(settings.lineage.transport)
        kind = str(given["type"])
        try:
            with _discreet():
                transport = get_default_factory().create(given)
                self._client = OpenLineageClient(transport=transport, config={"transport": {"type": kind}})
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"the lineage transport {kind} needs the package {error.name}, which is not installed",
                fix=f"Run pip install {error.name}.",
            ) from None
        except Exception as error:  # noqa: BLE001 - OpenLineage raises whatever comes, and its words may hold a key
            raise ConfigError(
                f"OpenLineage does not take the setting lineage.transport of type {kind}: {type(error).__name__}",
                expected="the keys that its documentation gives for this type",
                got=", ".join(sorted(map(str, settings.lineage.transport))),
            ) from None
        self._told = False

    def send(self, event: RunEvent) -> bool:
        """Send an event; gives whether it was taken.

        Told once, not raised, where it was not: a run is worth more than the tale of it.
        """
        try:
            self._client.emit(event)
        except Exception as error:  # noqa: BLE001 - told; whatever a client raises must not end the run
            self.warn(f"the receiver did not take the event {_state(event)}", error)
            return False
        return True

    def warn(self, what: str, error: Exception) -> None:
        """Say what went wrong, once a run; by the error's class, since its words may hold an address with a key."""
        if not self._told:
            _logger.warning("lineage: %s (%s); the run goes on without it", what, _cause(error))
        self._told = True

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        try:
            self._client.close(_CLOSING)
        except Exception as error:  # noqa: BLE001 - as in ``send``
            self.warn("the receiver could not be closed", error)


@contextmanager
def _discreet() -> Iterator[None]:
    """Let OpenLineage write no debugging lines: they hold the settings that a transport is made of."""
    log = logging.getLogger("openlineage")
    level = log.level
    log.setLevel(max(level, logging.INFO))
    try:
        yield
    finally:
        log.setLevel(level)


def _bounded(transport: Mapping[str, Any]) -> dict[str, Any]:
    """OpenLineage's settings as it takes them, HTTP's waits bounded unless they are given."""
    given = _plain(transport)
    if given["type"] in ("http", "async_http"):
        given = {"timeout": _TIMEOUT, "retry": dict(_RETRY), **given}
        # The environment gives texts.
        given["timeout"] = float(given["timeout"]) if _is_number(given["timeout"]) else given["timeout"]
    return given


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _is_number(value: Any) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", str(value)) is not None


def _state(event: RunEvent) -> str:
    return str(event.eventType.value) if event.eventType is not None else "without a state"


def _cause(error: BaseException) -> str:
    """The error's class, and the status of a receiver that answered."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"{type(error).__name__}, status {status}" if status is not None else type(error).__name__
