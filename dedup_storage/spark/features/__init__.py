"""Feature groups on Spark: add, refresh, read, rename, drop, promote."""

from __future__ import annotations

from dedup_storage.spark.features.recipe import Lookup
from dedup_storage.spark.features.summary import FeatureSummary

__all__ = ["FeatureSummary", "Lookup"]
