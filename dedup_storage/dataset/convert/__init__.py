"""Conversion of a dataset: to another layout, another table format, other segments; other buckets in place.

Needs: the source's handle and the target's settings.
Gives: ``Conversion`` and its ``ConvertSummary``, ``Rebucket`` and its ``RebucketSummary``.
May import: ``dataset.write``, ``dataset.features``, ``dataset.samples``, ``dataset.upkeep``, ``report``, ``sources``,
``lake``.
"""

from __future__ import annotations

from dedup_storage.dataset.convert.rebucket import Rebucket
from dedup_storage.dataset.convert.rebucket_summary import RebucketSummary, TableMoved
from dedup_storage.dataset.convert.run import Conversion
from dedup_storage.dataset.convert.summary import ConvertSummary, PartCheck

__all__ = ["Conversion", "ConvertSummary", "PartCheck", "Rebucket", "RebucketSummary", "TableMoved"]
