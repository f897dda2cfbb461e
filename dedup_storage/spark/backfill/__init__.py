"""Backfills: new values of columns for affected rows, in the one table that holds the columns."""

from dedup_storage.spark.backfill.labels import LateLabels, LateLabelsSummary, merge_labels
from dedup_storage.spark.backfill.plan import BackfillPlan, SegmentPlan
from dedup_storage.spark.backfill.request import Affected, Change, Strategy
from dedup_storage.spark.backfill.run import Backfill
from dedup_storage.spark.backfill.summary import BackfillSummary

__all__ = [
    "Affected",
    "Backfill",
    "BackfillPlan",
    "BackfillSummary",
    "Change",
    "LateLabels",
    "LateLabelsSummary",
    "SegmentPlan",
    "Strategy",
    "merge_labels",
]
