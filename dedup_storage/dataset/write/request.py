"""Which log a write was asked to write, as far as a run id stands for it."""

from __future__ import annotations

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.write.columns import fitted
from dedup_storage.lake.engine.sessions import run_session
from dedup_storage.lake.requests import Request
from dedup_storage.sources.origin import Origin
from dedup_storage.sources.raw import RawLog
from dedup_storage.spark.digests import rows_digest

__all__ = ["write_request"]


def write_request(handle: Handle, raw: RawLog) -> Request:
    """A log by its files (places below their folder, sizes, times of change) or its table's newest state; where it is a
    frame, by its rows, which are read once for that.

    Args:
        handle: The dataset that it is written into.
        raw: The log.
    """
    origins = {name: _told(handle, origin) for name, origin in raw.origins}
    if origins and None not in origins.values():
        return Request.of("write").with_texts(**{name: str(text) for name, text in origins.items()})
    rows = fitted(raw.in_session(run_session(raw.frame.sparkSession)), handle.spec)
    frames = {"log": rows.frame, **({"impressions": rows.candidates} if rows.candidates is not None else {})}
    # Lists are long here: where their nulls stand does not count, how many elements they have does.
    return Request.of("write").with_texts(**{n: rows_digest(frame, strict=False) for n, frame in frames.items()})


def _told(handle: Handle, origin: Origin) -> str | None:
    if origin.table is None:
        return origin.text
    prefix = f"{handle.settings.catalog.name}."
    name = origin.table.removeprefix(prefix) if handle.settings.has_catalog else origin.table
    state = handle.tables.state(name) if name.count(".") == 1 else None
    # A view, or a table of another catalog, has rows and no state that can be asked for.
    return None if state is None else f"{origin.table} at {state}"
