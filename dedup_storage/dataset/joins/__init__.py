"""Joins inside buckets, what keeps a join from staying there, and as-of joins.

Needs: frames or tables' names; a handle for a dataset's own tables.
Gives: ``bucket_join``, ``asof_join``, ``explain_join`` and what an explanation says; ``tables`` joins one dataset's.
May import: ``lake``; no other room of ``dataset``.
"""

from dedup_storage.dataset.joins.asof import asof_join
from dedup_storage.dataset.joins.bucket import Exchange, ShuffleWarning, bucket_join
from dedup_storage.dataset.joins.explain import explain_join
from dedup_storage.dataset.joins.explanation import JoinExplanation
from dedup_storage.dataset.joins.inputs import How
from dedup_storage.dataset.joins.model import Cause, Reason

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
