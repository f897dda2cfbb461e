"""Joins inside buckets, what keeps a join from staying there, and as-of joins."""

from dedup_storage.spark.joins.asof import asof_join
from dedup_storage.spark.joins.bucket import Exchange, ShuffleWarning, bucket_join
from dedup_storage.spark.joins.explain import explain_join
from dedup_storage.spark.joins.inputs import How
from dedup_storage.spark.joins.model import Cause, JoinExplanation, Reason

__all__ = [
    "Cause",
    "Exchange",
    "How",
    "JoinExplanation",
    "Reason",
    "ShuffleWarning",
    "asof_join",
    "bucket_join",
    "explain_join",
]
