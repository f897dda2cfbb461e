"""Which log a write was asked to write, as far as a run id stands for it."""

from __future__ import annotations

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.write.asked import by_origins
from dedup_storage.dataset.write.columns import Fitted
from dedup_storage.lake.engine.sessions import run_session
from dedup_storage.lake.requests import Request
from dedup_storage.sources.raw import RawLog
from dedup_storage.spark.digests import rows_digest

__all__ = ["write_request"]


def write_request(handle: Handle, raw: RawLog, log: Fitted) -> Request:
    """A log by where it was read from; where that does not tell it, by its rows, which are read once for that.

    Args:
        handle: The dataset that it is written into.
        raw: The log.
        log: The same with the dataset's columns.
    """
    found = by_origins(handle.settings, handle.tables.state, dict(raw.origins))
    if found is not None:
        return found
    rows = log.raw.in_session(run_session(raw.frame.sparkSession))
    frames = {"log": rows.frame, **({"impressions": rows.candidates} if rows.candidates is not None else {})}
    # Lists are long here: where their nulls stand does not count, how many elements they have does.
    return Request.of("write").with_texts(**{n: rows_digest(frame, strict=False) for n, frame in frames.items()})
