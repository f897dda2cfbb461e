"""Whether the users' lists of layout ``user`` hold all that requests refer to, in one place each."""

from __future__ import annotations

from collections.abc import Iterator

from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Cut
from dedup_storage.event_groups import EventGroup
from dedup_storage.quality.model import CheckResult
from dedup_storage.spark.rows import only_row

__all__ = ["list_checks"]

_COUNT, _BROKEN = "_dedup_count", "_dedup_broken"


def list_checks(cut: Cut) -> Iterator[CheckResult]:
    """One check a group: users whose positions are not 0, 1, 2 and so on, and requests whose runs lie outside."""
    for group in cut.spec.events:
        users, requests = _broken(cut, group)
        told = f"every event of a user at one position, from 0 on without a gap, and every run inside ({group.name})"
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
        (F.min(place) == 0) & (F.max(place) + 1 == F.count(place)) & (F.size(F.collect_set(place)) == F.count(place))
    )
    lists = cut.stored(group.table).groupBy(user).agg(F.count(place).alias(_COUNT), (~whole).alias(_BROKEN))
    users = int(only_row(lists.agg(F.count_if(F.coalesce(_BROKEN, F.lit(True))).alias("n")))["n"])
    there = F.coalesce(F.col(_COUNT), F.lit(0))
    outside = F.exists(
        group.runs_column, lambda r: (r["start"] < 0) | (r["length"] < 1) | (r["start"] + r["length"] > there)
    )
    rows = cut.stored(cut.spec.anchor.name).select(user, group.runs_column).join(lists.hint("merge"), [user], "left")
    return users, int(only_row(rows.agg(F.count_if(F.coalesce(outside, F.lit(False))).alias("n")))["n"])
