"""One copy of everything known about a user, from the raw training log to the GPU."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dedup_storage.config import Settings, load_settings
    from dedup_storage.connection import Lake, connect
    from dedup_storage.dataset.backfill import Affected, Change
    from dedup_storage.dataset.facade import Dataset
    from dedup_storage.errors import DedupStorageError
    from dedup_storage.layout import DatasetSpec, Layout
    from dedup_storage.reader import DedupDataset
    from dedup_storage.sampling.definition import SampleSpec
    from dedup_storage.schema import DateGrain, Grain, LogSchema, SequenceColumn
    from dedup_storage.sources.raw import RawLog

__version__ = "0.1.0"

__all__ = [
    "Affected",
    "Change",
    "Dataset",
    "DatasetSpec",
    "DateGrain",
    "DedupDataset",
    "DedupStorageError",
    "Grain",
    "Lake",
    "Layout",
    "LogSchema",
    "RawLog",
    "SampleSpec",
    "SequenceColumn",
    "Settings",
    "__version__",
    "connect",
    "load_settings",
]

# Module -> its names. Whoever only reads batches never pays for Spark, and a Python process that a task of Spark starts
# imports the package for its arrays alone: not for settings and schemas.
_HOMES = {
    "dedup_storage.config": ("Settings", "load_settings"),
    "dedup_storage.connection": ("Lake", "connect"),
    "dedup_storage.dataset.backfill": ("Affected", "Change"),
    "dedup_storage.dataset.facade": ("Dataset",),
    "dedup_storage.errors": ("DedupStorageError",),
    "dedup_storage.layout": ("DatasetSpec", "Layout"),
    "dedup_storage.reader": ("DedupDataset",),
    "dedup_storage.sampling.definition": ("SampleSpec",),
    "dedup_storage.schema": ("DateGrain", "Grain", "LogSchema", "SequenceColumn"),
    "dedup_storage.sources.raw": ("RawLog",),
}
_LATER = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_LATER[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
