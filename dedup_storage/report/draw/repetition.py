"""Dedup factors of a draw: how often a column repeats what it said before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dedup_storage.dedup.hashing import Hashes, combine, count_distinct, hash_column
from dedup_storage.dedup.mixing import mix64
from dedup_storage.report.draw.users import LogDraw

__all__ = ["Repetition", "repetition"]


@dataclass(frozen=True)
class Repetition:
    """Dedup factors of one column, each at least 1.

    Attributes:
        rows_per_run: Flat rows / runs of equal values in the sorted log.
        rows_per_request_value: Flat rows / distinct (request, value).
        rows_per_user_value: Flat rows / distinct (user, value).
    """

    rows_per_run: float
    rows_per_request_value: float
    rows_per_user_value: float


def repetition(draw: LogDraw) -> dict[str, Repetition]:
    """Dedup factors of every column of the flat log, as if every row repeated its request's values."""
    flat_rows = draw.num_impressions
    requests = mix64(np.arange(draw.num_requests, dtype=np.uint64))
    factors = {}
    for name in draw.requests.column_names:
        values = hash_column(draw.requests[name])
        factors[name] = _factors(flat_rows, values, requests, draw.users)
    users = draw.users[draw.inverse]
    for name in draw.impressions.column_names:
        values = hash_column(draw.impressions[name])
        factors[name] = _factors(flat_rows, values, requests[draw.inverse], users)
    return factors


def _factors(flat_rows: int, values: Hashes, requests: Hashes, users: Hashes) -> Repetition:
    changes = int(np.count_nonzero(values[1:] != values[:-1]))
    return Repetition(
        rows_per_run=flat_rows / (changes + 1),
        rows_per_request_value=flat_rows / count_distinct(combine([requests, values])),
        rows_per_user_value=flat_rows / count_distinct(combine([users, values])),
    )
