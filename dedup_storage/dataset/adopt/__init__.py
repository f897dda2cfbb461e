"""Adopt a log that is there: a dataset in flat layout over the files as they lie."""

from __future__ import annotations

from dedup_storage.dataset.adopt.run import AdoptSummary, adopt

__all__ = ["AdoptSummary", "adopt"]
