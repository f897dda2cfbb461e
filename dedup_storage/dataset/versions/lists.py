"""Whether the users' lists of layout ``user`` hold all that requests refer to, in one place each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import or_

from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Cut
from dedup_storage.event_groups import EventGroup
from dedup_storage.quality.model import CheckResult
from dedup_storage.spark.rows import only_row

__all__ = ["list_checks"]

_COUNT, _BROKEN, _BESIDE = "_dedup_count", "_dedup_broken", "_dedup_beside"


def list_checks(cut: Cut) -> Iterator[CheckResult]:
    """One check a group: users whose positions are not 0, 1, 2 and so on; requests whose runs lie outside, or that
    have a list beside them, which nobody would read.
    """
    for group in cut.spec.events:
        users, requests = _broken(cut, group)
        told = (
            "every event of a user at one position, from 0 on without a gap, every run inside, and no list beside its "
            f"runs ({group.name})"
        )
        found = f" ({users} users, {requests} requests)" if users or requests else ""
        yield CheckResult(
            name=f"dataset.lists.{group.name}",
            grain="dataset",
            column=None,
            passed=not (users or requests),
            observed=users + requests,
            expected=told + found,
            unexpected_count=users + requests,
        )


def _broken(cut: Cut, group: EventGroup) -> tuple[int, int]:
    user, place = cut.spec.schema_.user, F.col(group.position_column)
    whole = (
        (F.min(place) == 0)
        & (F.max(place) + 1 == F.count(F.lit(1)))
        & (F.size(F.collect_set(place)) == F.count(F.lit(1)))
    )
    lists = cut.stored(group.table).groupBy(user).agg(F.count(place).alias(_COUNT), (~whole).alias(_BROKEN))
    users = int(only_row(lists.agg(F.count_if(F.coalesce(_BROKEN, F.lit(True))).alias("n")))["n"])
    there = F.coalesce(F.col(_COUNT), F.lit(0))
    outside = F.exists(
        group.runs_column, lambda r: (r["start"] < 0) | (r["length"] < 1) | (r["start"] + r["length"] > there)
    )
    beside = F.col(group.runs_column).isNotNull() & reduce(or_, (F.col(c).isNotNull() for c in group.columns))
    rows = cut.stored(cut.spec.anchor.name).select(user, group.runs_column, beside.alias(_BESIDE))
    rows = rows.join(lists.hint("merge"), [user], "left")
    broken = F.coalesce(outside, F.col(group.runs_column).isNotNull()) | F.col(_BESIDE)
    return users, int(only_row(rows.agg(F.count_if(broken).alias("n")))["n"])
