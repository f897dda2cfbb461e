"""Feature groups: added, refreshed, read, renamed, dropped, promoted.

Needs: a handle; a ``Lookup``, expressions, a function or a frame to compute columns from.
Gives: ``accessor.Features``, its ``FeatureSummary``, and groups' columns for those who read.
May import: ``quality``, ``sources``, ``lake``; no other room of ``dataset``.
"""

from __future__ import annotations

from dedup_storage.dataset.features.recipe import Lookup
from dedup_storage.dataset.features.summary import FeatureSummary

__all__ = ["FeatureSummary", "Lookup"]
