"""Whether the users' lists of layout ``user`` hold all that requests refer to, in one place each."""

from __future__ import annotations

from collections.abc import Iterator

from dedup_storage.dataset.handle import Cut
from dedup_storage.dataset.positions import broken_lists
from dedup_storage.quality.model import CheckResult

__all__ = ["list_checks"]


def list_checks(cut: Cut) -> Iterator[CheckResult]:
    """One check a group: users with two events at one position, or one at none; requests whose runs name events that
    are not there, or that have a list beside them, which nobody would read.
    """
    for group in cut.spec.events:
        users, requests = broken_lists(cut.spec, group, cut.stored(group.table), cut.stored(cut.spec.anchor.name))
        told = (
            "every event of a user at a position of its own, every event of a run there, and no list beside its runs "
            f"({group.name})"
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
