"""One copy of everything known about a user, from the raw training log to the GPU."""

from __future__ import annotations

from typing import Any

from dedup_storage.config import Settings, load_settings
from dedup_storage.errors import DedupStorageError
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.schema import DateGrain, Grain, LogSchema, SequenceColumn

__version__ = "0.1.0"

__all__ = [
    "Dataset",
    "DatasetSpec",
    "DateGrain",
    "DedupStorageError",
    "Grain",
    "Layout",
    "LogSchema",
    "SequenceColumn",
    "Settings",
    "__version__",
    "load_settings",
]


def __getattr__(name: str) -> Any:
    # Dataset brings pyspark; whoever only reads batches never pays for it.
    if name == "Dataset":
        from dedup_storage.dataset.facade import Dataset

        return Dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
