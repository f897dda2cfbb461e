"""What a log's schema says about the columns of its sources. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from dedup_storage.schema import LogSchema
from dedup_storage.sources.source import Wanted

__all__ = ["wanted_columns"]


def wanted_columns(schema: LogSchema, types: Mapping[str, pa.DataType] | None = None) -> Wanted:
    """What to ask of a source: keys stay the texts that they are, 64-bit unsigned ones become signed where they fit.

    Args:
        schema: The log's schema.
        types: Declared types, and those of the dataset that the rows go into.
    """
    keys = (*schema.request_key, schema.item)
    times = () if schema.event_time is None else (schema.event_time,)
    needed = tuple(c for c in keys if not schema.candidates or c in schema.request_key)
    return Wanted(
        needed=needed, texts=keys, whole=keys, wide=(*schema.request, schema.item), times=times, types=types or {}
    )
