"""The rows of a journey, plain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.spark.helpers import flat_rows

__all__ = ["CHANGED", "DAYS", "GONE", "LISTS", "plain", "rows_of"]

DAYS = (1, 2, 3)
# Users whose labels a backfill changes, and one who is erased; lists of them lie beside the logs.
CHANGED, GONE = (1, 3), 2
LISTS = {"changed.txt": CHANGED, "gone.txt": (GONE,)}


def rows_of(days: Iterable[int]) -> list[tuple[Any, ...]]:
    """The raw log of some days, each with requests of its own."""
    return [row for number in days for row in flat_rows([number], first_request=100 * number)]


def plain(days: Iterable[int], *, changed: Iterable[int] = (), gone: Iterable[int] = ()) -> list[tuple[Any, ...]]:
    """Its rows as a reader delivers them, some users' labels changed and some users gone."""
    kept = [(u, r, c, h, i, y + 10 if u in changed else y) for u, r, _, c, h, i, y in rows_of(days) if u not in gone]
    return sorted(kept, key=repr)
