"""Conversion of a dataset: to another layout, another table format, other segments.

Needs: the source's handle and the target's settings.
Gives: ``Conversion`` and its ``ConvertSummary``.
May import: ``dataset.write``, ``dataset.features``, ``dataset.samples``, ``report``, ``sources``, ``lake``.
"""

from __future__ import annotations

from dedup_storage.dataset.convert.run import Conversion
from dedup_storage.dataset.convert.summary import ConvertSummary, PartCheck

__all__ = ["Conversion", "ConvertSummary", "PartCheck"]
