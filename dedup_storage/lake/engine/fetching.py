"""Java that fetches packages, one process of the machine at a time.

Spark fetches into one folder for all processes of an account, by Ivy, which locks nothing: of two that begin with the
same missing packages, one finds the other's half of a file and ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["alone_fetching"]

_logger = logging.getLogger(__name__)
_PACKAGES, _FOLDER = "spark.jars.packages", "spark.jars.ivy"


@contextmanager
def alone_fetching(conf: Mapping[str, str]) -> Iterator[None]:
    """Let nobody else fetch while packages are fetched for the first time; packages that were fetched wait for nobody
    who has fetched his too.

    Args:
        conf: Of the session that starts: its packages, and the folder that they go to.
    """
    packages, folder = conf.get(_PACKAGES), conf.get(_FOLDER)
    if not packages or not folder:
        yield
        return
    place = Path(folder) / "dedup-storage"
    known = place / hashlib.sha256(packages.encode()).hexdigest()[:16]
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        # A folder that only others write holds everything, or Spark says what is missing.
        _logger.debug("Packages are fetched unguarded: %s", error)
        yield
        return
    try:
        _wait(lock, fcntl.LOCK_SH if known.exists() else fcntl.LOCK_EX, folder)
        yield
        known.touch()
    finally:
        os.close(lock)


def _wait(lock: int, kind: int, folder: str) -> None:
    try:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            _logger.info("Waiting for another process that fetches packages into %s", folder)
            fcntl.flock(lock, kind)
    except OSError as error:
        # Not every file system of a network has locks.
        _logger.debug("Packages are fetched unguarded: %s", error)
