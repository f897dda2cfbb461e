"""One thing of Spark done beside another: both plan, commit and wait more than they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from pyspark import InheritableThread
from pyspark.sql import SparkSession

__all__ = ["beside"]

Result = TypeVar("Result")


@contextmanager
def beside(session: SparkSession, work: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Do ``work`` in a thread of its own while a block runs, with what the caller's thread has told Spark of its jobs.

    Args:
        session: Whose tags the jobs have.
        work: What to do.

    Yields:
        A function that waits for it, and gives its result or raises its error. A block that does not ask is not told
        of an error. Whether it asks or fails itself, ``work`` has ended when the block is left.
    """
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            done.set_exception(error)

    thread = InheritableThread(target=run, session=session)

    def result() -> Result:
        thread.join()
        # A thread that Spark did not let begin has left nothing to wait for.
        return done.result(timeout=0)

    thread.start()
    try:
        yield result
    finally:
        thread.join()
