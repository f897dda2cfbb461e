"""Reading a dataset as deduplicated PyTorch batches, without Spark and without Java.

Needs: PyTorch, pyarrow, and PyIceberg or deltalake for the catalog.
Gives: ``DedupDataset``, its batches, and states to resume from.
May import: ``lake``'s metadata, ``sampling``, ``training``'s masks, ``dedup``.
"""

from __future__ import annotations

from dedup_storage.reader.batch import DedupBatch
from dedup_storage.reader.cache.file_cache import FileCache, FileCacheStatistics
from dedup_storage.reader.column import Column
from dedup_storage.reader.dataset import DedupDataset
from dedup_storage.reader.flat import flat_batch
from dedup_storage.reader.open.vocabulary import open_vocabulary
from dedup_storage.reader.options import Ends, Filters, Unit
from dedup_storage.reader.shared import SharedLists
from dedup_storage.reader.state import merge_states
from dedup_storage.reader.vocabulary import IdVocabulary

__all__ = [
    "Column",
    "DedupBatch",
    "DedupDataset",
    "Ends",
    "FileCache",
    "FileCacheStatistics",
    "Filters",
    "IdVocabulary",
    "SharedLists",
    "Unit",
    "flat_batch",
    "merge_states",
    "open_vocabulary",
]
