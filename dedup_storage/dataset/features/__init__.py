"""Feature groups on Spark: add, refresh, read, rename, drop, promote."""

from __future__ import annotations

from dedup_storage.dataset.features.recipe import Lookup
from dedup_storage.dataset.features.summary import FeatureSummary

__all__ = ["FeatureSummary", "Lookup"]
