"""How a sequence group is to be read as windows: which end is new, and which columns belong to the event at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dedup_storage.dedup.expand import ranges
from dedup_storage.dedup.runs import Int64
from dedup_storage.report.estimate.histories import History
from dedup_storage.windows import Lists, Rules, Windows, match

__all__ = ["GrainPlan", "Plans", "plan_history", "stored_tokens"]

# What is looked at, of as many users as it takes: lists of each at most, and tokens.
_WIDE, _SHORT = (64, 300_000), (8, 50_000)
# A column with which more than so many times the events are stored was not logged with the event.
_MOST_TIMES = 2.0
# Lists of which more than this stays after matching are no windows.
_LEAST_LEFT = 0.8
_RULES = Rules()


@dataclass(frozen=True)
class GrainPlan:
    """How to read one group.

    Attributes:
        newest_first: New events come at the front of a list; ``None`` where both readings are as good.
        events: Columns of the event, in the group's order.
        requests: Columns whose values depend on the request: they stay lists.
        slides: Lists go on from request to request, or nothing tells that they do not: no user has two.
    """

    newest_first: bool | None
    events: tuple[str, ...]
    requests: tuple[str, ...]
    slides: bool = True

    def lists(self, history: History) -> Lists:
        """The lists of the event columns, oldest token first."""
        chosen = history.lists.of(self.events)
        return chosen.turned() if self.newest_first else chosen


# Columns of each sequence group -> how to read them.
Plans = Mapping[tuple[str, ...], GrainPlan]


def stored_tokens(lists: Lists, windows: Windows) -> Int64:
    """Tokens that are stored for each list: new events, and those of lists that stay lists. (lists,) int64."""
    owners = np.searchsorted(lists.offsets, windows.new, side="right") - 1
    return np.bincount(owners, minlength=len(lists.users)) + np.where(windows.kept, lists.lengths, 0)


def plan_history(history: History) -> GrainPlan:
    """Find the direction and the columns of the event, from a part of the draw.

    Each column is matched alone, both ways. The richest of those that slide leads; every other column joins it unless
    the two together repeat much less than what was found so far: then its values are of the request, as an age or a
    rank is. Where no column slides, all stay together, and their lists are no windows.
    """
    probe, few = (_probe(history.lists, *reach) for reach in (_WIDE, _SHORT))
    names = list(probe.columns)
    if not probe.num_tokens:
        return GrainPlan(None, tuple(names), ())
    alone = {name: _read(probe.of([name]), few.of([name])) for name in names}
    left = {name: reading.cost for name, reading in alone.items()}
    slides = [name for name in names if left[name] <= _LEAST_LEFT * probe.num_tokens]
    if not slides:
        return GrainPlan(None, tuple(names), (), slides=False)
    ranked = sorted(names, key=lambda name: (name not in slides, -left[name]))
    leader = ranked[0]
    turned = alone[leader].newest_first
    chosen, cost = [leader], left[leader]
    for name in ranked[1:]:
        together = probe.of([*chosen, name])
        with_it = _cost(together.turned() if turned else together)
        if with_it <= _MOST_TIMES * cost:
            chosen, cost = [*chosen, name], with_it
    return GrainPlan(
        turned,
        tuple(n for n in names if n in chosen),
        tuple(n for n in names if n not in chosen),
    )


@dataclass(frozen=True)
class _Reading:
    """The cheaper way to read some lists, and what it costs in tokens."""

    newest_first: bool | None
    cost: int


def _read(lists: Lists, few: Lists) -> _Reading:
    """How some lists are to be read, decided by a few of them: the wrong way takes many runs, and its time."""
    forward, backward = _cost(few), _cost(few.turned())
    newest_first = None if forward == backward else backward < forward
    return _Reading(newest_first, _cost(lists.turned() if newest_first else lists))


def _cost(lists: Lists) -> int:
    windows = match(lists, rules=_RULES)
    return int(stored_tokens(lists, windows).sum()) + _RULES.run_tokens * int(windows.run_offsets[-1])


def _probe(lists: Lists, most_lists: int, most_tokens: int) -> Lists:
    """Lists of users with several that are not empty: so many of each, and so many tokens."""
    filled = np.bincount(lists.users[lists.lengths > 0], minlength=lists.num_users)
    several = (filled > 1)[lists.users] & (lists.lengths > 0)
    counts = np.bincount(lists.users, weights=several, minlength=lists.num_users).astype(np.int64)
    rows = np.flatnonzero(several)
    rows = rows[ranges(np.zeros_like(counts), counts) < most_lists]
    # The users' order is that of their hashes: the first are as good as drawn.
    reach = int(np.searchsorted(np.cumsum(lists.lengths[rows]), most_tokens, side="right"))
    return lists.chosen(rows[: max(2, reach)])
