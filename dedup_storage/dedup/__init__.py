"""Deduplication arithmetic on Arrow and NumPy arrays: runs, key matching, inverse indices, one hash. Pure.

Needs: NumPy and pyarrow.
Gives: functions of arrays, without state.
May import: ``errors``.
"""

from __future__ import annotations

from dedup_storage.dedup.expand import (
    check_inverse,
    collapse_table,
    expand_array,
    expand_table,
    inverse_from_lengths,
    lengths_from_inverse,
    offsets_from_lengths,
    ranges,
)
from dedup_storage.dedup.gather import gather, gather_table
from dedup_storage.dedup.keys import key_codes, match_keys
from dedup_storage.dedup.runs import dedup_factor, run_lengths, run_starts

__all__ = [
    "check_inverse",
    "collapse_table",
    "dedup_factor",
    "expand_array",
    "expand_table",
    "gather",
    "gather_table",
    "inverse_from_lengths",
    "key_codes",
    "lengths_from_inverse",
    "match_keys",
    "offsets_from_lengths",
    "ranges",
    "run_lengths",
    "run_starts",
]
