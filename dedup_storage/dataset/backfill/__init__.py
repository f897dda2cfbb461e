"""Backfills: new values of columns for affected rows, in the one table that holds the columns.

Needs: a handle.
Gives: ``Backfill``, its plan and summary; ``Affected`` and ``Change``, which say what is asked for.
May import: ``quality``, ``sources``, ``lake``; no other room of ``dataset``.
"""

from dedup_storage.dataset.backfill.plan import BackfillPlan, SegmentPlan
from dedup_storage.dataset.backfill.request import Affected, Change, Strategy
from dedup_storage.dataset.backfill.run import Backfill
from dedup_storage.dataset.backfill.summary import BackfillSummary

__all__ = [
    "Affected",
    "Backfill",
    "BackfillPlan",
    "BackfillSummary",
    "Change",
    "SegmentPlan",
    "Strategy",
]
