"""Names of runs."""

from __future__ import annotations

import re
import time
import uuid

from dedup_storage.errors import UsageError

__all__ = ["named_run"]

_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+@=-]{0,199}")


def named_run(run_id: str | None, job: str) -> str:
    """The run id given, checked; or a new one that begins with the job's name.

    Raises:
        UsageError: it could not name a directory.
    """
    if run_id is None:
        return f"{job}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            "the run id cannot be used",
            expected="1 to 200 letters, digits and _ . : + @ = -, starting with a letter, a digit or _",
            got=repr(run_id[:80]),
        )
    return run_id
