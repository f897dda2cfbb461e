"""A table's files, opened with credentials that are still good: what a catalog hands out ends, and is asked for anew.

A catalog may vend keys for each table that are good for an hour. They are renewed before they end, and where storage
refuses a read, in whichever process and thread reads. No client ever crosses a process border: a process makes its own.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from dedup_storage.lake.retries import is_refusal, is_transient, storage_reads, storage_trouble

__all__ = ["Client", "FileAccess", "Lease", "Origin"]

R = TypeVar("R")
_logger = logging.getLogger(__name__)

# Credentials are renewed this many seconds before they end, or a quarter of their time before it when that is less.
_MARGIN_SECONDS = 60.0
_MARGIN_SHARE = 0.25
# How often one read gets new credentials: those of the first renewal may have been given out by a cache.
_RENEWALS = 2
# Milliseconds since 1970, as catalogs call them.
_ENDS = ("s3.session-token-expires-at-ms", "gcs.oauth2.token-expires-at")
_ENDS_OF_ACCOUNTS = "adls.sas-token-expires-at-ms."


class Client(Protocol):
    """What opens files; PyIceberg's ``FileIO``."""

    def new_input(self, location: str) -> Any:
        """A file by its address."""

    def new_output(self, location: str) -> Any:
        """A file to write, by its address."""


class Origin(Protocol):
    """Where the properties of a table's file system come from, named by ``str``; crosses process borders."""

    @property
    def remedy(self) -> str:
        """What helps where storage refuses credentials from here; names catalog and table."""

    def load(self, properties: Mapping[str, Any]) -> Mapping[str, Any]:
        """The properties with the credentials of now.

        Args:
            properties: Those of before.

        Raises:
            StorageError: there are none for this process; names catalog and table.
            OSError: the catalog does not answer, for a moment.
        """


@dataclass(frozen=True)
class Lease:
    """A client, and how long its credentials are good.

    Attributes:
        client: The client.
        renew_at: When to ask for new ones, in seconds since 1970; infinite where no end is known.
        ends_at: When they end.
    """

    client: Client
    renew_at: float = math.inf
    ends_at: float = math.inf


class FileAccess:
    """The files of one table, for all threads of a process; crosses process borders without its client.

    Args:
        make: Makes a client of properties; crosses process borders too.
        properties: Those that the table was opened with.
        origin: Where new ones come from; ``None`` where they stay.
    """

    def __init__(
        self,
        make: Callable[[Mapping[str, Any]], Client],
        properties: Mapping[str, Any],
        origin: Origin | None = None,
    ) -> None:
        self._make, self._origin = make, origin
        self._properties, self._since = dict(properties), time.time()
        self._prepare()

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self._held: Lease | None = None
        _in_this_process.add(self)

    def __getstate__(self) -> dict[str, Any]:
        sent = ("_make", "_origin", "_properties", "_since")
        return {name: getattr(self, name) for name in sent}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    @property
    def properties(self) -> Mapping[str, Any]:
        """The newest properties, credentials included."""
        return self._properties

    def new_input(self, location: str) -> Any:
        """A file by its address, with credentials that are good now."""
        return self.lease().client.new_input(location)

    def lease(self) -> Lease:
        """A client whose credentials are good for another minute, or a quarter of their time, if the catalog allows.

        Raises:
            StorageError: they have ended, and there are no new ones for this process.
            OSError: they have ended, and the catalog does not answer.
        """
        held, now = self._held, time.time()
        if held is not None and (now < held.renew_at or (now < held.ends_at and self._lock.locked())):
            # Those at hand do, also while another thread asks for new ones.
            return held
        with self._lock:
            held = self._held if self._held is not None else self._leased()
            self._held = held if time.time() < held.renew_at else self._before_the_end(held)
            return self._held

    def read(self, what: str, function: Callable[[Client], R]) -> R:
        """A read, made again where storage failed for a moment, and with new credentials where it refused.

        Args:
            what: What is read, to follow "storage failed n times while".
            function: Reads with a client from where it stands, however often it is called.

        Raises:
            StorageError: storage failed each time, or refuses credentials of now too.
        """
        used: list[Lease] = []
        refused: list[Lease] = []

        def attempt() -> R:
            used.clear()
            if refused:
                self._renew(refused[-1])
            used.append(self.lease())
            return function(used[0].client)

        def again(error: BaseException) -> bool:
            if not used or not is_refusal(error):
                return is_transient(error)
            refused.append(used.pop())
            return len(refused) <= _RENEWALS

        failed: list[OSError] = []

        def next_attempt() -> R:
            if failed:
                raise failed.pop()
            return attempt()

        try:
            # To follow the policy takes longer than to read a small column, so the first attempt is made without it.
            try:
                return attempt()
            except OSError as error:
                failed.append(error)
            return storage_reads(again=again)(next_attempt)
        except OSError as error:
            trouble = storage_trouble(what, error, fix=None if self._origin is None else self._origin.remedy)
            if trouble is not None:
                raise trouble from error
            raise

    def _renew(self, refused: Lease) -> None:
        """New credentials, unless another thread has fetched some since."""
        with self._lock:
            if self._held is not None and self._held.client is refused.client:
                self._held = self._loaded()

    def _before_the_end(self, held: Lease) -> Lease:
        if self._origin is None:
            return replace(held, renew_at=math.inf)
        before = self._properties
        try:
            fresh = self._loaded()
            # Files stay open where a cache gave out the same once more.
            return fresh if self._properties != before else replace(fresh, client=held.client)
        except OSError as error:
            now = time.time()
            if now >= held.ends_at:
                raise
            _logger.warning("The credentials at hand are good for %d s more: %s", held.ends_at - now, error)
            return replace(held, renew_at=_renewal(now, held.ends_at))

    def _loaded(self) -> Lease:
        """A client made anew; even the same properties may stand for keys that were changed on the machine."""
        if self._origin is not None:
            self._properties, self._since = dict(self._origin.load(self._properties)), time.time()
            _logger.info("New credentials for %s", self._origin)
            if _end(self._properties) <= self._since:
                # This machine's clock is ahead, or the catalog repeats what has ended: storage will tell.
                _logger.warning("New credentials for %s have ended, by this machine's clock", self._origin)
                return Lease(self._make(self._properties))
        return self._leased()

    def _leased(self) -> Lease:
        ends_at = _end(self._properties)
        return Lease(self._make(self._properties), _renewal(self._since, ends_at), ends_at)


def _end(properties: Mapping[str, Any]) -> float:
    """When the first of the credentials ends, in seconds since 1970."""
    told = [str(v) for k, v in properties.items() if k in _ENDS or k.startswith(_ENDS_OF_ACCOUNTS)]
    return min((int(text) / 1000 for text in told if text.isdigit()), default=math.inf)


def _renewal(since: float, ends_at: float) -> float:
    """When to ask for new ones, of credentials that were at hand since some time."""
    return ends_at - min(_MARGIN_SECONDS, _MARGIN_SHARE * (ends_at - since)) if since < ends_at < math.inf else ends_at


_in_this_process: WeakSet[FileAccess] = WeakSet()
# Clients of the process that this one was forked from. Their connections are its own, and so are the threads that they
# would wait for: they are neither used nor let go.
_of_the_parent: list[Lease] = []


def _after_fork() -> None:
    for files in list(_in_this_process):
        if files._held is not None:
            _of_the_parent.append(files._held)
        files._prepare()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
