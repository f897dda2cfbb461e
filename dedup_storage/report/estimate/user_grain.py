"""What a log's histories are: how far they repeat, how they slide, and what storing each event once would save.

Totals of the whole log are estimated from whole users by the ratio estimator (``intervals``); what adds up over
users takes no error of a model. Lists are matched exactly, and given back exactly (``windows``): of a large draw those
of some users, while requests and tokens are counted in all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.runs import Int64
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.estimate.baselines import BaselineLayout
from dedup_storage.report.estimate.grain_plan import GrainPlan, Plans, stored_tokens
from dedup_storage.report.estimate.histories import History, days, histories, user_time_order
from dedup_storage.report.estimate.intervals import Floats, Interval, ratio_interval
from dedup_storage.report.estimate.layouts import KnownTotals, LayoutEstimate, known_lengths
from dedup_storage.report.estimate.ranges import as_range, columns_range
from dedup_storage.report.estimate.verdict import verdict
from dedup_storage.report.model import Range, UserGrain
from dedup_storage.windows import Lists, Windows, match

__all__ = ["estimate_user_grain"]

# Tokens of one group that are matched; whole users, as many as have them.
_MOST_TOKENS = 8_000_000
# Fewer users say nothing of the others.
_FEWEST_USERS = 8
# A run in memory: start and length as 64-bit numbers, as batches hold offsets.
_RUN_BYTES = 16
_OFFSET_BYTES = 8


def estimate_user_grain(
    draw: LogDraw,
    known: KnownTotals,
    plans: Plans,
    layouts: Mapping[BaselineLayout, LayoutEstimate],
    *,
    confidence: float = 0.95,
) -> tuple[UserGrain, ...]:
    """Estimate, for each sequence group, what the user grain would store, decode and move.

    Args:
        draw: Rows of whole users.
        known: Totals of the whole log.
        plans: How each group is read (``plan_histories``).
        layouts: Stored bytes in split and user layout, as far as they were measured.
        confidence: Of the intervals.
    """
    order = user_time_order(draw)
    times = draw.requests[draw.schema.event_time] if draw.schema.event_time else None
    dates = days(times, draw.schema) if times is not None else None
    counts = np.bincount(draw.inverse, minlength=draw.num_requests)[order]
    found = []
    for history in histories(draw, order):
        part = _part(history)
        rows = order[: len(part.lists.users)]
        group = _Group(part, history, plans[history.columns], known, counts, draw, confidence)
        found.append(group.report(layouts, dates.take(pa.array(rows)) if dates is not None else None))
    return tuple(found)


def _part(history: History) -> History:
    """The history of the first users, which are as good as drawn: users stand in the order of their hashes."""
    lists = history.lists
    if lists.num_tokens <= _MOST_TOKENS:
        return history
    last = int(np.searchsorted(lists.offsets, _MOST_TOKENS, side="right")) - 1
    user = max(int(lists.users[last - 1]) if last else 0, _FEWEST_USERS)
    rows = int(np.searchsorted(lists.users, user, side="left"))
    missing = {name: mask[:rows] for name, mask in history.missing.items()}
    return History(history.name, lists.part(0, rows), missing)


@dataclass(frozen=True)
class _Group:
    """One group, its lists matched, and sums of its users.

    Attributes:
        history: Lists of the users that are matched.
        whole: Lists of all users drawn, of whom these are the first.
        impressions: (requests,) of each request drawn.
    """

    history: History
    whole: History
    plan: GrainPlan
    known: KnownTotals
    impressions: Int64
    draw: LogDraw
    confidence: float

    def report(self, layouts: Mapping[BaselineLayout, LayoutEstimate], dates: pa.Array | None) -> UserGrain:
        """All that is to be said of it."""
        lists = self.plan.lists(self.history)
        windows = match(lists)
        stored = stored_tokens(lists, windows)
        filled = (lists.lengths > 0).astype(np.int64)
        monthly, daily = self._by_period(lists, dates)
        slides = _slides(lists, windows, stored)
        ratio = _at_least(self._ratio(lists.lengths, stored), 1)
        drawn = self.whole.lists
        tokens = self._total(drawn.lengths, drawn)
        names = tuple(self.history.lists.columns)
        stored_split, stored_user = (
            columns_range(layouts, which, names) for which in (BaselineLayout.SPLIT, BaselineLayout.USER)
        )
        decoded_split = self._total(self._bytes(drawn.lengths, (drawn.lengths > 0).astype(np.int64), of=drawn), drawn)
        decoded_user = self._total(self._bytes(stored, windows.runs * filled, windows=True))
        no_windows = _at_most(self._ratio(windows.kept.astype(np.int64), filled), 1)
        pays, why = verdict(
            ratio,
            no_windows,
            repeats=bool(np.any(np.bincount(lists.users, weights=filled) > 1)),
            stored_split=stored_split,
            stored_user=stored_user,
            decoded_split=decoded_split,
            decoded_user=decoded_user,
        )
        return UserGrain(
            group=self.history.name,
            event_columns=self.plan.events,
            request_columns=self.plan.requests,
            newest_first=self.plan.newest_first,
            users=lists.num_users,
            requests=self._requests(),
            tokens=tokens,
            events=self._events(stored, tokens),
            ratio=ratio,
            ratio_month=_at_least(self._ratio(lists.lengths, monthly[0]), 1) if monthly else None,
            ratio_day=_at_least(self._ratio(lists.lengths, daily[0]), 1) if daily else None,
            runs=_at_least(self._ratio(windows.runs, filled * ~windows.kept), 1),
            runs_p99=float(np.percentile(windows.runs[filled > 0], 99)) if filled.any() else 0.0,
            no_windows=no_windows,
            slide=float(np.median(slides)) if len(slides) else None,
            slide_mean=float(np.mean(slides)) if len(slides) else None,
            stored_split=stored_split,
            stored_user=stored_user,
            decoded_split=decoded_split,
            decoded_user=decoded_user,
            moved_split=decoded_split,
            moved_user=decoded_user,
            moved_user_day=self._total(self._bytes(*daily, windows=True)) if daily else None,
            pays=pays,
            verdict=why,
        )

    def _by_period(
        self, lists: Lists, dates: pa.Array | None
    ) -> tuple[tuple[Int64, Int64] | None, tuple[Int64, Int64] | None]:
        """Tokens to store and runs of each list when users' lists begin anew every month, and every day."""
        if dates is None:
            return None, None
        numbers = dates.cast(pa.int32()).fill_null(np.iinfo(np.int32).max).to_numpy().astype(np.int64)
        months = numbers.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
        found = []
        for period in (months, numbers):
            changes = np.ones(len(period), dtype=np.int64)
            changes[1:] = (lists.users[1:] != lists.users[:-1]) | (period[1:] != period[:-1])
            begun = Lists(np.cumsum(changes) - 1, int(changes.sum()), lists.offsets, lists.columns)
            windows = match(begun)
            found.append((stored_tokens(begun, windows), windows.runs))
        return found[0], found[1]

    def _bytes(self, events: Int64, runs: Int64, *, windows: bool = False, of: Lists | None = None) -> Floats:
        """Bytes in memory of each request's share: events of event columns, whole lists of the others, windows."""
        lists = self.history.lists if of is None else of
        total = np.zeros(len(events))
        for name, values in lists.columns.items():
            own = lists.lengths if name in self.plan.requests else events
            total += own * (values.nbytes / max(1, len(values)))
            total += 0 if windows and name in self.plan.events else _OFFSET_BYTES
        return total + _RUN_BYTES * runs * windows

    def _interval(self, lists: Lists, x: Int64 | Floats, y: Int64 | Floats, known: float) -> Interval:
        """Of sums over users: (requests,) of what is known of the whole log, and of what is not."""
        share = min(1.0, self.draw.share * lists.num_users / max(1, self.draw.num_users))
        sizes, totals = (
            np.bincount(lists.users, weights=each, minlength=lists.num_users).astype(np.float64) for each in (x, y)
        )
        return ratio_interval(
            float(totals.sum()), sizes, totals, known, share=share, confidence=self.confidence, model_error=0.0
        )

    def _requests(self) -> Range:
        """Requests with a history: by what all requests are estimated by, so that they are never more than those."""
        lists, known = self.whole.lists, self.known
        filled = (lists.lengths > 0).astype(np.int64)
        every = np.ones_like(filled)
        x, total = (self.impressions, known.impressions) if known.requests is None else (every, known.requests)
        those, all_of_them = (self._interval(lists, x, y, total) for y in (filled, every))
        # Those that were drawn are counted, and each other row may be of one more.
        counted = float(filled.sum())
        return as_range(those.within(counted, min(counted + total - float(x.sum()), all_of_them.high)))

    def _total(self, of_lists: Int64 | Floats, of: Lists | None = None) -> Range:
        """The whole log's total of what was measured on each list, of those that are matched or of others."""
        lists, known = self.history.lists if of is None else of, self.known
        name = next(iter(lists.columns))
        counted = known_lengths(lists.columns[name], lists.offsets)
        impressions = self.impressions[: len(counted)]
        if name in known.elements and counted.any():
            times = 1 if known.per_request else impressions
            return as_range(self._interval(lists, counted * times, of_lists, known.elements[name]))
        if known.requests is not None:
            return as_range(self._interval(lists, np.ones(len(counted)), of_lists, known.requests))
        return as_range(self._interval(lists, impressions, of_lists, known.impressions))

    def _events(self, stored: Int64, tokens: Range) -> Range:
        """Tokens to store: their share of all tokens, so that ratio, tokens and these agree."""
        lists = self.history.lists
        if lists.num_users == self.whole.lists.num_users:
            return _at_most(self._total(stored), tokens.high)
        share = self._interval(lists, lists.lengths, stored, 1.0).within(0, 1)
        return Range(value=tokens.value * share.value, low=tokens.low * share.low, high=tokens.high * share.high)

    def _ratio(self, y: Int64, x: Int64) -> Range:
        """Sum of y over sum of x; 0 where there is nothing to divide by."""
        return as_range(self._interval(self.history.lists, x, y, 1.0))


def _at_least(found: Range, bound: float) -> Range:
    """An estimate of what is never less; nothing stays nothing."""
    if found.value == 0:
        return found
    return Range(value=max(found.value, bound), low=max(found.low, bound), high=max(found.high, bound))


def _at_most(found: Range, bound: float) -> Range:
    """An estimate of what is never more."""
    return Range(value=min(found.value, bound), low=min(found.low, bound), high=min(found.high, bound))


def _slides(lists: Lists, windows: Windows, stored: Int64) -> Int64:
    """New events of each request that is not its user's first and has windows."""
    filled = np.flatnonzero((lists.lengths > 0) & ~windows.kept)
    later = filled[1:][lists.users[filled[1:]] == lists.users[filled[:-1]]]
    return stored[later]
