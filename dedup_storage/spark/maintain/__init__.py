"""Keeping a dataset healthy: sorted segments, few versions, no orphans."""

from dedup_storage.spark.maintain.decay import Limits, SegmentDecay, measure_decay
from dedup_storage.spark.maintain.expire import Policy
from dedup_storage.spark.maintain.run import Maintenance
from dedup_storage.spark.maintain.summary import MaintainSummary

__all__ = ["Limits", "MaintainSummary", "Maintenance", "Policy", "SegmentDecay", "measure_decay"]
