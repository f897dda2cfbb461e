"""What a log's histories are: how far they repeat, how they slide, and what storing each event once would save.

Totals of the whole log are estimated from whole users by the ratio estimator (``intervals``); what adds up over
users takes no error of a model. Lists are matched exactly, and given back exactly (``windows``).
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
from dedup_storage.report.estimate.intervals import Floats, ratio_interval
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
        group = _Group(part, plans[history.columns], known, counts[: len(rows)], draw, confidence)
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
        impressions: (requests,) of each request.
    """

    history: History
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
        ratio = self._ratio(lists.lengths, stored)
        names = tuple(self.history.lists.columns)
        stored_split, stored_user = (
            columns_range(layouts, which, names) for which in (BaselineLayout.SPLIT, BaselineLayout.USER)
        )
        decoded_split = self._total(self._bytes(lists.lengths, filled))
        decoded_user = self._total(self._bytes(stored, windows.runs * filled, windows=True))
        no_windows = self._ratio(windows.kept.astype(np.int64), filled)
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
            requests=self._total(filled),
            tokens=self._total(lists.lengths),
            events=self._total(stored),
            ratio=ratio,
            ratio_month=self._ratio(lists.lengths, monthly[0]) if monthly else None,
            ratio_day=self._ratio(lists.lengths, daily[0]) if daily else None,
            runs=self._ratio(windows.runs, filled * ~windows.kept),
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

    def _bytes(self, events: Int64, runs: Int64, *, windows: bool = False) -> Floats:
        """Bytes in memory of each request's share: events of event columns, whole lists of the others, windows."""
        total = np.zeros(len(events))
        for name, values in self.history.lists.columns.items():
            own = self.history.lists.lengths if name in self.plan.requests else events
            total += own * (values.nbytes / max(1, len(values)))
            total += 0 if windows and name in self.plan.events else _OFFSET_BYTES
        return total + _RUN_BYTES * runs * windows

    def _sums(self, of_lists: Int64 | Floats) -> Floats:
        """Sums over each user's requests. (requests,) -> (users,) float64."""
        lists = self.history.lists
        return np.bincount(lists.users, weights=of_lists, minlength=lists.num_users).astype(np.float64)

    def _share(self) -> float:
        measured = self.history.lists.num_users / max(1, self.draw.num_users)
        return min(1.0, self.draw.share * measured)

    def _interval(self, x: Floats, y: Floats, known: float) -> Range:
        share, confidence = self._share(), self.confidence
        return as_range(
            ratio_interval(float(y.sum()), x, y, known, share=share, confidence=confidence, model_error=0.0)
        )

    def _total(self, of_lists: Int64 | Floats) -> Range:
        """The whole log's total of what was measured on each list."""
        lists, known = self.history.lists, self.known
        name = next(iter(lists.columns))
        counted = known_lengths(lists.columns[name], lists.offsets)
        if name in known.elements and counted.any():
            times = 1 if known.per_request else self.impressions
            return self._interval(self._sums(counted * times), self._sums(of_lists), known.elements[name])
        if known.requests is not None:
            return self._interval(self._sums(np.ones(len(lists.users))), self._sums(of_lists), known.requests)
        return self._interval(self._sums(self.impressions), self._sums(of_lists), known.impressions)

    def _ratio(self, y: Int64, x: Int64) -> Range:
        """Sum of y over sum of x; 0 where there is nothing to divide by."""
        return self._interval(self._sums(x), self._sums(y), 1.0)


def _slides(lists: Lists, windows: Windows, stored: Int64) -> Int64:
    """New events of each request that is not its user's first and has windows."""
    filled = np.flatnonzero((lists.lengths > 0) & ~windows.kept)
    later = filled[1:][lists.users[filled[1:]] == lists.users[filled[:-1]]]
    return stored[later]
