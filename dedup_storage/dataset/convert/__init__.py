"""Convert a dataset: to another layout, another table format, other segments."""

from __future__ import annotations

from dedup_storage.dataset.convert.run import Conversion
from dedup_storage.dataset.convert.summary import ConvertSummary, PartCheck

__all__ = ["Conversion", "ConvertSummary", "PartCheck"]
