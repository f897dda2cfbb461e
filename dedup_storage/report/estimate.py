"""What a log would need in each layout, from a sample of whole users, with an interval.

Users are clusters of rows: a user's rows compress together, so whole users are drawn. Stored bytes y grow with a
size x whose total X is known from footers (list elements, or rows), which makes the ratio estimator
Y = X * sum(y) / sum(x) far better than scaling by the share of users. Its variance comes from random groups of users,
each written on its own (W. G. Cochran, Sampling Techniques, 3rd ed. 1977, section 6.4 for the ratio estimator and
section 9A.1 for clusters; K. Wolter, Introduction to Variance Estimation, 2nd ed. 2007, chapter 2 for random groups):

    se(Y) = X / sum(x) * sqrt((1 - f) * G / (G - 1) * sum_g (y_g - r * x_g)**2),    r = sum(y_g) / sum(x_g)

with G groups and f the share of users. The interval takes Student's t with G - 1 degrees of freedom.

A file's bytes are not quite proportional to its rows: a dictionary is paid once a file, and more users share it in a
larger file. Two halves of the sample show the local exponent e of y ~ x**e, and carrying it to the size of a real file
gives one end; proportionality gives the other, since e tends to 1 as a file grows. The estimate lies midway and the
interval holds both ends, and 2 % for pages that end elsewhere.

Two layouts are estimated roughly and say so. Shuffled: a page finds fewer copies the more other users there are
(the sample is written with its pages smaller by f, which keeps the expected copies per page), and the width of
dictionary indices jumps with the number of distinct values. The floor: its dictionary is shared by all users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup_storage.dedup import gather
from dedup_storage.dedup.gather import list_parts
from dedup_storage.errors import UsageError
from dedup_storage.report.baselines import BaselineLayout, LayoutBytes, measure_layout
from dedup_storage.report.encoding import Encoding
from dedup_storage.report.sample import LogSample

__all__ = ["Interval", "KnownTotals", "LayoutEstimate", "estimate_layouts", "ratio_interval", "student_t"]

_GROUPS = 20
_FEWEST_GROUPS = 4
_ROUGH = (BaselineLayout.FLAT_SHUFFLED, BaselineLayout.FLOOR)
# Exponents outside are noise of tiny columns.
_EXPONENTS = (0.5, 1.1)
# Pages and blocks end elsewhere in another file; no estimate claims to know better.
_BOUNDARIES = 0.02
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval that holds the truth with the stated confidence; exact when all three agree."""

    value: float
    low: float
    high: float

    @property
    def exact(self) -> bool:
        """Whether nothing was estimated."""
        return self.low == self.value == self.high

    def __contains__(self, truth: float) -> bool:
        return self.low <= truth <= self.high


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
        sample: What the sample itself came to.
    """

    layout: BaselineLayout
    sequences: Interval
    total: Interval
    columns: Mapping[str, Interval]
    rough: bool
    sample: LayoutBytes


def student_t(probability: float, degrees: int) -> float:
    """Quantile of Student's t by its expansion in the normal quantile.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5; off by less than 0.01 from 4 degrees
    of freedom at 97.5 %, and by 0.2 % at 10.
    """
    x = NormalDist().inv_cdf(probability)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def ratio_interval(
    whole_y: float,
    x: Floats,
    y: Floats,
    known_x: float,
    *,
    share: float,
    confidence: float,
    growth: float = 1.0,
    boundaries: float = _BOUNDARIES,
) -> Interval:
    """Estimate a total.

    Args:
        whole_y: Bytes of the whole sample, written at once.
        x: (groups,) size of each random group.
        y: (groups,) bytes of each group, written on its own.
        known_x: Size of the whole log.
        share: f, the share of users drawn; 1 gives an interval of no width.
        confidence: Of the interval, two-sided.
        growth: Factor by which the bytes of a real file deviate from proportionality, at the far end.
        boundaries: Part of the value that the interval is widened by.
    """
    sampled_x = float(x.sum())
    if sampled_x == 0:
        return Interval(0.0, 0.0, 0.0)
    scale = known_x / sampled_x
    if share >= 1 or len(x) < 2:
        return Interval(whole_y * scale, whole_y * scale, whole_y * scale)
    ends = sorted((whole_y * scale, whole_y * scale * growth))
    value = sum(ends) / 2
    residual = y - y.sum() / sampled_x * x
    groups = len(x)
    error = scale * float(np.sqrt((1 - share) * groups / (groups - 1) * np.sum(residual**2)))
    width = student_t(0.5 + confidence / 2, groups - 1) * error + boundaries * value
    return Interval(value, max(0.0, ends[0] - width), ends[1] + width)


def estimate_layouts(
    sample: LogSample,
    known: KnownTotals,
    *,
    layouts: tuple[BaselineLayout, ...],
    tuned: Encoding | None = None,
    files: Mapping[BaselineLayout, int] | None = None,
    groups: int = _GROUPS,
    confidence: float = 0.95,
    on_layout: Callable[[BaselineLayout], None] | None = None,
) -> dict[BaselineLayout, LayoutEstimate]:
    """Estimate the stored bytes of the whole log in several layouts.

    Args:
        sample: Rows of whole users.
        known: Totals of the whole log.
        layouts: Which.
        tuned: Encoding of the tuned layouts.
        files: Layout -> files that its rows spread over; 1 where it says nothing.
        groups: Random groups for the interval; fewer where there are few users.
        confidence: Of the intervals.
        on_layout: Called before each layout, for progress.

    Raises:
        UsageError: the sample is a part of the log and has too few users for an interval.
    """
    parts = [] if sample.share >= 1 else sample.groups(min(groups, max(1, sample.num_users // 2)))
    if sample.share < 1 and len(parts) < _FEWEST_GROUPS:
        raise UsageError(
            "the sample has too few users for an interval", expected=f"at least {3 * _FEWEST_GROUPS}",
            got=str(sample.num_users), fix="Ask for a larger share or sample size.",
        )  # fmt: skip
    halves = sample.groups(2) if parts else []
    sizes, part_sizes = _sizes(sample, known), [_sizes(part, known) for part in parts]
    sequences = list(sample.schema.sequence_columns)
    estimates = {}
    for layout in layouts:
        if on_layout is not None:
            on_layout(layout)
        measured = _Measured(
            sizes, part_sizes,
            measure_layout(sample, layout, tuned),
            [measure_layout(part, layout, tuned) for part in parts],
            [measure_layout(half, layout, tuned) for half in halves],
            sample.share, confidence, (files or {}).get(layout, 1),
        )  # fmt: skip
        names = list(measured.whole.columns)
        estimates[layout] = LayoutEstimate(
            layout,
            measured.interval([n for n in sequences if n in names]),
            measured.interval(names),
            {name: measured.interval([name]) for name in names},
            sample.share < 1 and layout in _ROUGH,
            measured.whole,
        )
    return estimates


@dataclass(frozen=True)
class _Measured:
    """One layout of a sample: written whole, in random groups, and in halves."""

    sizes: Mapping[str, tuple[int, int]]
    part_sizes: list[dict[str, tuple[int, int]]]
    whole: LayoutBytes
    parts: list[LayoutBytes]
    halves: list[LayoutBytes]
    share: float
    confidence: float
    files: int

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
            self.whole.of(names), x, y, total, share=self.share, confidence=self.confidence,
            growth=self._growth(names, total / max(1.0, float(x.sum()))),
        )  # fmt: skip

    def _growth(self, names: list[str], times: float) -> float:
        """Bytes of a real file against proportionality, from the exponent between half the sample and all of it."""
        if len(self.halves) != 2:
            return 1.0
        half = sum(h.of(names) for h in self.halves) / 2
        whole = self.whole.of(names)
        if not half or not whole:
            return 1.0
        exponent = float(np.clip(np.log2(whole / half), *_EXPONENTS))
        return float((times / self.files) ** (exponent - 1))


def _sizes(sample: LogSample, known: KnownTotals) -> dict[str, tuple[int, int]]:
    """Column -> (its size in the sample, in the whole log): elements of lists, rows otherwise."""
    counts = np.bincount(sample.inverse, minlength=sample.num_requests)
    sizes: dict[str, tuple[int, int]] = {}
    for name in (*sample.requests.column_names, *sample.impressions.column_names):
        if name in known.elements and name in sample.requests.column_names:
            array = gather(sample.requests[name], np.arange(sample.num_requests, dtype=np.int64))
            lengths = np.diff(list_parts(array)[1])
            elements = int(lengths.sum()) if known.per_request else int((lengths * counts).sum())
            sizes[name] = (elements, known.elements[name])
        elif name in sample.requests.column_names and known.requests is not None:
            sizes[name] = (sample.num_requests, known.requests)
        else:
            sizes[name] = (sample.num_impressions, known.impressions)
    return sizes


def is_list(kind: pa.DataType) -> bool:
    """Whether a column's size is counted in list elements."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
