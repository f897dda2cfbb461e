"""Processes of their own for as long as a test needs them."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["HOST", "QUICK", "Unavailable", "free_port", "running", "until"]

HOST = "127.0.0.1"
# Such processes live for seconds, and most of that is starting up.
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_START_SECONDS = 300


class Unavailable(Exception):
    """What the machine lacks."""


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(command: list[str], log: Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose output goes to a file; ended at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def until(done: Callable[[], bool], process: subprocess.Popen[bytes], what: str, log: Path) -> None:
    """Wait until a process answers.

    Raises:
        Unavailable: it ended, or did not answer; with the end of its output.
    """
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if done():
                return
        except OSError:
            pass
        time.sleep(0.2)
    told = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise Unavailable(f"{what} did not start: {' '.join(told)[-500:]}")
