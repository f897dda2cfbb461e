"""A total estimated from random groups of users, with its interval.

Users are clusters of rows: a user's rows compress together, so whole users are drawn. Stored bytes y grow with a
size x whose total X is known from footers (list elements, or rows), which makes the ratio estimator
Y = X * sum(y) / sum(x) far better than scaling by the share of users. Its variance comes from random groups of users,
each written on its own (W. G. Cochran, Sampling Techniques, 3rd ed. 1977, section 6.4 for the ratio estimator and
section 9A.1 for clusters; K. Wolter, Introduction to Variance Estimation, 2nd ed. 2007, chapter 2 for random groups):

    se(Y) = X / sum(x) * sqrt((1 - f) * G / (G - 1) * sum_g (y_g - r * x_g)**2),    r = sum(y_g) / sum(x_g)

with G groups and f the share of users. The interval takes Student's t with G - 1 degrees of freedom.

What adds up over users (requests, rows) takes f as it is. Stored bytes take f = 0: which users share a file, and
where pages end among them, moves their bytes too, and no share of the users settles that.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = ["MODEL_ERROR", "Floats", "Interval", "ratio_interval", "student_t"]

# What counting and the ends of files may move an estimate by, whatever the draw; measured, and rounded up.
MODEL_ERROR = 0.02
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

    @property
    def half_width(self) -> float:
        """Half the interval's width, relative to the value."""
        return (self.high - self.low) / (2 * self.value) if self.value else 0.0

    def __contains__(self, truth: float) -> bool:
        return self.low <= truth <= self.high

    def within(self, least: float, most: float) -> Interval:
        """The interval inside bounds that are known exactly: what was counted, and what there is in all."""
        return Interval(*(min(max(end, least), most) for end in (self.value, self.low, self.high)))


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
    model_error: float = MODEL_ERROR,
) -> Interval:
    """Estimate a total.

    Args:
        whole_y: Bytes of the whole draw, written at once.
        x: (groups,) size of each random group.
        y: (groups,) bytes of each group, written on its own.
        known_x: Size of the whole log.
        share: f, the share of users drawn; 1 leaves no width but that of the model error.
        confidence: Of the interval, two-sided.
        growth: Factor by which the bytes of a real file deviate from proportionality, at the far end.
        model_error: Part of the value that the interval is widened by on each side.
    """
    drawn_x = float(x.sum())
    if drawn_x == 0:
        return Interval(0.0, 0.0, 0.0)
    scale = known_x / drawn_x
    if len(x) < 2:
        return Interval(whole_y * scale, whole_y * scale, whole_y * scale)
    ends = sorted((whole_y * scale, whole_y * scale * growth))
    value = sum(ends) / 2
    residual = y - y.sum() / drawn_x * x
    groups = len(x)
    error = scale * float(np.sqrt((1 - share) * groups / (groups - 1) * np.sum(residual**2)))
    width = student_t(0.5 + confidence / 2, groups - 1) * error + model_error * value
    return Interval(value, max(0.0, ends[0] - width), ends[1] + width)
