"""What a log would need in each layout, from a draw of whole users, with an interval.

Whole users are drawn and a total follows from known sizes (``intervals``).

The rows are counted as the Iceberg writer would store them (``counting``), in files as large as the dataset's would
be: a dictionary is paid once in a file, and more users share it in a larger one. A draw of several files' worth is
cut into so many; one that is smaller than a file says less. Then two halves of it show the local exponent e of
y ~ x**e, and carrying it to the size of a real file gives one end; proportionality gives the other, since e tends to
1 as a file grows. The estimate lies midway and the interval holds both ends. 2 % are added on both sides for what no
draw of users shows: counting missed up to 0.2 % of what Spark stored of the same rows, and where the last pages of
files end moved the estimate by up to 1.2 % (docs/decisions.md, 'Report and tuner').

Users differ, so a layout whose interval is wider than asked is measured again on as many more of the draw's users as
that takes.

Two layouts are estimated roughly and say so. Shuffled: a page finds fewer copies the more other users there are
(the draw is written with its pages smaller by f, which keeps the expected copies per page), and the width of
dictionary indices jumps with the number of distinct values. The floor: its dictionary is shared by all users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from dedup_storage.dedup import gather
from dedup_storage.dedup.gather import list_parts
from dedup_storage.dedup.mixing import mix64
from dedup_storage.dedup.runs import Int64
from dedup_storage.errors import UsageError
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.estimate.baselines import BaselineLayout, LayoutBytes, measure_layout, starting_encoding
from dedup_storage.report.estimate.grain_plan import Plans
from dedup_storage.report.estimate.intervals import MODEL_ERROR, Interval, ratio_interval
from dedup_storage.report.estimate.user_layout import plan_histories
from dedup_storage.report.parquet.encoding import Encoding

__all__ = ["KnownTotals", "LayoutEstimate", "estimate_layouts", "is_list", "known_lengths"]

_GROUPS = 20
_FEWEST_GROUPS = 4
_ROUGH = (BaselineLayout.FLAT_SHUFFLED, BaselineLayout.FLOOR)
# Exponents outside are noise of tiny columns.
_EXPONENTS = (0.5, 1.1)
# A step takes at least half as many users more, since the variance is itself an estimate.
_LEAST_EXCESS = 1.25
# A draw not much larger than what to begin with is measured whole.
_ALL_AT_ONCE = 2


@dataclass(frozen=True)
class KnownTotals:
    """What footers say about the whole log.

    Attributes:
        impressions: B, rows of the flat log.
        requests: R, where a request table shows it.
        elements: List column -> elements of all its rows, in the flat log or in the request table.
        per_request: ``elements`` counts request rows, not flat rows.
    """

    impressions: int
    requests: int | None
    elements: Mapping[str, int]
    per_request: bool


@dataclass(frozen=True)
class LayoutEstimate:
    """Stored bytes of the whole log in one layout.

    Attributes:
        sequences: All sequence columns together.
        total: All columns together.
        columns: Each column.
        rough: Estimated from a part of the log for which the interval promises nothing.
        share: Share of all users that it was measured on.
        measured: What these came to.
    """

    layout: BaselineLayout
    sequences: Interval
    total: Interval
    columns: Mapping[str, Interval]
    rough: bool
    share: float
    measured: LayoutBytes

    @property
    def half_width(self) -> float:
        """Half the width of the wider of its two intervals, relative to the value."""
        return max(self.sequences.half_width, self.total.half_width)


def estimate_layouts(
    draw: LogDraw,
    known: KnownTotals,
    *,
    layouts: tuple[BaselineLayout, ...],
    tuned: Encoding | None = None,
    files: Mapping[BaselineLayout, int] | None = None,
    groups: int = _GROUPS,
    confidence: float = 0.95,
    precision: float | None = None,
    start_bytes: int | None = None,
    plans: Plans | None = None,
    on_layout: Callable[[BaselineLayout], None] | None = None,
) -> dict[BaselineLayout, LayoutEstimate]:
    """Estimate the stored bytes of the whole log in several layouts.

    Args:
        draw: Rows of whole users.
        known: Totals of the whole log.
        layouts: Which.
        tuned: Encoding of the tuned layouts; ``None`` takes what a new dataset starts from.
        files: Layout -> files that the whole log would spread over by user; 1 where it says nothing.
        groups: Random groups for the interval; fewer where there are few users.
        confidence: Of the intervals.
        precision: Half width of the intervals, relative, to aim at with more of the draw's users.
        start_bytes: Flat bytes of the users to begin with; ``None`` takes the whole draw.
        plans: How the user grain reads each sequence group; ``None`` finds out from the draw.
        on_layout: Called before each layout, for progress.

    Raises:
        UsageError: the draw is a part of the log and has too few users for an interval.
    """
    tuned = tuned or starting_encoding(draw)
    if plans is None and BaselineLayout.USER in layouts:
        plans = plan_histories(draw)
    begin = draw.share
    if start_bytes is not None and flat_bytes(draw) > _ALL_AT_ONCE * start_bytes:
        begin *= start_bytes / flat_bytes(draw)
    drawn = {begin: _Drawn.of(_fewer(draw, begin), known, groups)}
    estimates = {}
    for layout in layouts:
        if on_layout is not None:
            on_layout(layout)
        count, share = (files or {}).get(layout, 1), begin
        found = drawn[begin].estimate(layout, tuned, plans, count, confidence)
        while precision is not None and not found.rough and found.half_width > precision and share < draw.share:
            excess = (found.half_width - MODEL_ERROR) / max(precision - MODEL_ERROR, MODEL_ERROR / 2)
            share = min(draw.share, share * max(excess, _LEAST_EXCESS) ** 2)
            # Layouts that ask for about as much share one draw.
            share = next((s for s in sorted(drawn) if share <= s <= 1.5 * share), share)
            if share not in drawn:
                drawn[share] = _Drawn.of(_fewer(draw, share), known, groups)
            found = drawn[share].estimate(layout, tuned, plans, count, confidence)
        estimates[layout] = found
    return estimates


def flat_bytes(draw: LogDraw) -> int:
    """Bytes in memory of the draw's rows, each with its request's values."""
    return int(draw.requests.nbytes * draw.num_impressions / max(1, draw.num_requests))


def _fewer(draw: LogDraw, share: float) -> LogDraw:
    """The users of a smaller share, which are among those of every larger one."""
    if share >= draw.share:
        return draw
    users = np.unique(draw.users)
    count = max(min(3 * _FEWEST_GROUPS, len(users)), round(len(users) * share / draw.share))
    if count >= len(users):
        return draw
    last = np.partition(mix64(users), count - 1)[count - 1]
    return replace(draw.part(mix64(draw.users) <= last), share=draw.share * count / len(users))


@dataclass(frozen=True)
class _Drawn:
    """A draw with its random groups and halves, and the sizes of each."""

    draw: LogDraw
    known: KnownTotals
    parts: list[LogDraw]
    part_sizes: list[dict[str, tuple[int, int]]]
    cuts: dict[int, list[LogDraw]] = field(default_factory=dict)

    @classmethod
    def of(cls, draw: LogDraw, known: KnownTotals, groups: int) -> _Drawn:
        """Cut a draw.

        Raises:
            UsageError: it has too few users.
        """
        parts = draw.groups(min(groups, max(1, draw.num_users // 2)))
        if len(parts) < _FEWEST_GROUPS:
            if draw.share >= 1:
                return cls(draw, known, [], [])
            raise UsageError(
                "the draw has too few users for an interval", expected=f"at least {3 * _FEWEST_GROUPS}",
                got=str(draw.num_users), fix="Ask for a larger share or a larger size.",
            )  # fmt: skip
        return cls(draw, known, parts, [_sizes(part, known) for part in parts])

    def _pieces(self, count: int) -> list[LogDraw]:
        if count == 1:
            return [self.draw]
        if count not in self.cuts:
            self.cuts[count] = self.draw.groups(count)
        return self.cuts[count]

    def estimate(
        self, layout: BaselineLayout, tuned: Encoding, plans: Plans | None, files: int,
        confidence: float,
    ) -> LayoutEstimate:  # fmt: skip
        """Write a layout in files of their real size, in random groups, and in halves where it is less than a file."""
        draw = self.draw
        held = draw.share * files
        pieces = min(max(1, round(held)), max(1, draw.num_users))
        # All rows in one file are that file, and nothing is estimated.
        parts = [] if draw.share >= 1 and pieces == 1 else self.parts
        halves = self._pieces(2) if parts and held < 1 else []
        measured = _Measured(
            _sizes(draw, self.known), self.part_sizes,
            _together([measure_layout(piece, layout, tuned, plans) for piece in self._pieces(pieces)]),
            [measure_layout(part, layout, tuned, plans) for part in parts],
            [measure_layout(half, layout, tuned, plans) for half in halves],
            confidence, max(1.0, 1 / held),
        )  # fmt: skip
        names = list(measured.whole.columns)
        return LayoutEstimate(
            layout,
            measured.interval([n for n in draw.schema.sequence_columns if n in names]),
            measured.interval(names),
            {name: measured.interval([name]) for name in names},
            draw.share < 1 and layout in _ROUGH,
            draw.share,
            measured.whole,
        )


def _together(pieces: list[LayoutBytes]) -> LayoutBytes:
    """Several files as one layout."""
    columns: dict[str, int] = {}
    for piece in pieces:
        for name, size in piece.columns.items():
            columns[name] = columns.get(name, 0) + size
    return LayoutBytes(
        pieces[0].layout, columns, sum(piece.rows for piece in pieces), sum(piece.seconds for piece in pieces)
    )


@dataclass(frozen=True)
class _Measured:
    """One layout of a draw: written as files of a real file's size, in random groups, and in halves.

    Attributes:
        times: Rows of a real file against the rows of the draw, where the draw is smaller; else 1.
    """

    sizes: Mapping[str, tuple[int, int]]
    part_sizes: list[dict[str, tuple[int, int]]]
    whole: LayoutBytes
    parts: list[LayoutBytes]
    halves: list[LayoutBytes]
    confidence: float
    times: float

    def interval(self, names: list[str]) -> Interval:
        """Bytes of some columns of the whole log."""
        if not self.parts:
            value = float(self.whole.of(names))
            return Interval(value, value, value)
        # Several columns make one total: their sizes are first brought to the same unit, expected bytes.
        weight = {n: self.whole.columns.get(n, 0) / max(1, self.sizes[n][0]) for n in names}
        x = np.array([sum(weight[n] * part[n][0] for n in names) for part in self.part_sizes])
        y = np.array([part.of(names) for part in self.parts], dtype=np.float64)
        total = sum(weight[n] * self.sizes[n][1] for n in names)
        return ratio_interval(
            self.whole.of(names), x, y, total, share=0.0, confidence=self.confidence,
            growth=self._growth(names),
        )  # fmt: skip

    def _growth(self, names: list[str]) -> float:
        """Bytes of a real file against proportionality, from the exponent between half the draw and all of it."""
        if len(self.halves) != 2:
            return 1.0
        half = sum(h.of(names) for h in self.halves) / 2
        whole = self.whole.of(names)
        if not half or not whole:
            return 1.0
        exponent = float(np.clip(np.log2(whole / half), *_EXPONENTS))
        return float(self.times ** (exponent - 1))


def _sizes(draw: LogDraw, known: KnownTotals) -> dict[str, tuple[int, int]]:
    """Column -> (its size in the draw, in the whole log): elements of lists, rows otherwise."""
    counts = np.bincount(draw.inverse, minlength=draw.num_requests)
    sizes: dict[str, tuple[int, int]] = {}
    for name in (*draw.requests.column_names, *draw.impressions.column_names):
        if name in known.elements and name in draw.requests.column_names:
            array = gather(draw.requests[name], np.arange(draw.num_requests, dtype=np.int64))
            lengths = known_lengths(*list_parts(array))
            elements = int(lengths.sum()) if known.per_request else int((lengths * counts).sum())
            sizes[name] = (elements, known.elements[name])
        elif name in draw.requests.column_names and known.requests is not None:
            sizes[name] = (draw.num_requests, known.requests)
        else:
            sizes[name] = (draw.num_impressions, known.impressions)
    return sizes


def known_lengths(values: pa.Array, offsets: Int64) -> Int64:
    """Elements of each list that are no nulls: what footers count, which do not tell null elements from empty lists.

    Args:
        values: (elements,) of all lists.
        offsets: (lists + 1,) int64.

    Returns:
        (lists,) int64.
    """
    if not values.null_count:
        return np.diff(offsets)
    there = np.concatenate([[0], np.cumsum(values.is_valid().to_numpy(zero_copy_only=False))])
    return there[offsets[1:]] - there[offsets[:-1]]


def is_list(kind: pa.DataType) -> bool:
    """Whether a column's size is counted in list elements."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
