"""Feature functions on R rows: histories, candidates against histories, statistics of a user's earlier requests.

Column expressions for request rows:

- ``sequence_length``, ``last_k``: of any list;
- ``recency_seconds``, ``count_in_window``: of a list of event times, as of the request.

DataFrame -> DataFrame:

- ``with_target_matches``: was the candidate in the history, how often, how long ago;
- ``request_totals``, ``rolling_statistics``: what the user's earlier requests were like.

Lists are newest last. A window of length W that ends at t is (t - W, t], as pandas' ``rolling(closed="right")``.

Needs: frames and columns, of a dataset or not.
Gives: the functions above.
May import: ``errors`` and ``schema``; no other room of ``dataset``.
"""

from dedup_storage.dataset.functions.matches import with_target_matches
from dedup_storage.dataset.functions.rolling import Statistic, request_totals, rolling_statistics
from dedup_storage.dataset.functions.sequences import count_in_window, last_k, recency_seconds, sequence_length

__all__ = [
    "Statistic",
    "count_in_window",
    "last_k",
    "recency_seconds",
    "request_totals",
    "rolling_statistics",
    "sequence_length",
    "with_target_matches",
]
