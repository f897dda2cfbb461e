"""Joins inside buckets, what keeps a join from staying there, and as-of joins."""

from dedup_storage.dataset.joins.asof import asof_join
from dedup_storage.dataset.joins.bucket import Exchange, ShuffleWarning, bucket_join
from dedup_storage.dataset.joins.explain import explain_join
from dedup_storage.dataset.joins.inputs import How
from dedup_storage.dataset.joins.model import Cause, JoinExplanation, Reason

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
