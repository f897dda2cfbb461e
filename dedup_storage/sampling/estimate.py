"""Estimates from a sample of users: totals, ratios, their intervals, and what the weights cost.

A user u is in the sample with probability pi_u and counts with w_u = 1 / pi_u. A total is sum(w y)
(Horvitz and Thompson 1952), a ratio R = sum(w y) / sum(w x), and its variance follows from e = y - R x:

- hash shares (each user by itself, Poisson sampling):  V = sum((1 - pi) / pi**2 * e**2) / X**2
- exact counts by hash rank (stratified simple random): V = sum_h(N_h**2 (1 - n_h / N_h) s_h**2 / n_h) / X**2
- buckets (clusters, k of N):                            the same with one stratum and buckets as elements
- capped samples (a random part of each user): V = sum_h(n_h / (n_h - 1) * sum_h((w e - mean_h(w e))**2)) / X**2,
  which leaves the finite-population factor out and so covers the second stage (ultimate clusters)

with X = sum(w x). Sources: Saerndal, Swensson, Wretman, Model Assisted Survey Sampling (1992), 2.8, 3.7, 5.5; Cochran,
Sampling Techniques (3rd ed.), 5.3, 6.11, 9A; effective size (sum w)**2 / sum(w**2): Kish, Survey Sampling (1965), 11.7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from dedup_storage.errors import UsageError

__all__ = ["Design", "Estimate", "Moments", "effective_size", "moments", "ratio", "student_quantile"]


class Design(StrEnum):
    """How elements came into the sample; decides the variance."""

    SHARES = "shares"
    COUNTS = "counts"
    BUCKETS = "buckets"
    CAPPED = "capped"


@dataclass(frozen=True)
class Moments:
    """Sums over the sampled elements of one stratum; all that an estimate needs.

    Attributes:
        sampled: n_h, elements in the sample.
        population: N_h, elements in the stratum.
        probability: pi_h of every element; weights are its inverse.
        y, x: Sums of numerator and denominator.
        yy, xy, xx: Sums of their products.
    """

    sampled: int
    population: int
    probability: float
    y: float
    x: float
    yy: float
    xy: float
    xx: float


@dataclass(frozen=True)
class Estimate:
    """An estimate and its interval.

    Attributes:
        value: The estimate; nan when the denominator is 0.
        standard_error: Of the value; nan when a stratum that was not taken whole has one element.
        low, high: Ends of the interval.
        confidence: Its level, such as 0.95.
    """

    value: float
    standard_error: float
    low: float
    high: float
    confidence: float = 0.95

    def covers(self, truth: float) -> bool:
        """Whether the interval holds a value."""
        return self.low <= truth <= self.high


def moments(
    y: npt.ArrayLike, x: npt.ArrayLike, stratum: npt.ArrayLike, population: Mapping[int, int],
    probability: Mapping[int, float],
) -> list[Moments]:  # fmt: skip
    """Moments of sampled elements by stratum.

    Args:
        y, x: (n,) numerator and denominator of each element.
        stratum: (n,) its stratum.
        population: N_h by stratum; strata without a sampled element count with no sums.
        probability: pi_h by stratum.
    """
    ys, xs, strata = (np.asarray(v) for v in (y, x, stratum))
    found = []
    for number, count in population.items():
        a, b = ys[strata == number].astype(np.float64), xs[strata == number].astype(np.float64)
        sums = (a.sum(), b.sum(), (a * a).sum(), (a * b).sum(), (b * b).sum())
        found.append(Moments(len(a), count, probability[number], *map(float, sums)))
    return found


def ratio(strata: Sequence[Moments], design: Design | str, *, confidence: float = 0.95) -> Estimate:
    """Estimate sum(y) / sum(x) over the population.

    Args:
        strata: Sums by stratum.
        design: How the elements were chosen.
        confidence: Level of the interval. Quantiles are Student's with n - H degrees of freedom.

    Raises:
        UsageError: the level is not inside (0, 1).
    """
    if not 0 < confidence < 1:
        raise UsageError("the confidence level is out of range", expected="between 0 and 1", got=str(confidence))
    there = [m for m in strata if m.sampled]
    bottom = sum(m.x / m.probability for m in there)
    if not bottom:
        return Estimate(math.nan, math.nan, math.nan, math.nan, confidence)
    value = sum(m.y / m.probability for m in there) / bottom
    error = math.sqrt(sum(_variance(m, value, Design(design)) for m in there)) / abs(bottom)
    quantile = student_quantile(0.5 + confidence / 2, max(sum(m.sampled for m in there) - len(there), 1))
    return Estimate(value, error, value - quantile * error, value + quantile * error, confidence)


def _variance(m: Moments, value: float, design: Design) -> float:
    """One stratum's part of the variance of sum(w e)."""
    ee = max(m.yy - 2 * value * m.xy + value * value * m.xx, 0.0)
    if design is Design.SHARES:
        return (1 - m.probability) / m.probability**2 * ee
    if m.sampled >= m.population and design is not Design.CAPPED:
        return 0.0
    if m.sampled < 2:
        return math.nan
    e = m.y - value * m.x
    spread = max(ee - e * e / m.sampled, 0.0) / (m.sampled - 1)
    if design is Design.CAPPED:
        return m.sampled * spread / m.probability**2
    return m.population**2 * (1 - m.sampled / m.population) * spread / m.sampled


def effective_size(counts: Sequence[int], weights: Sequence[float]) -> float:
    """Users of an unweighted sample that would say as much about an unrelated measure: (sum w)**2 / sum(w**2).

    Args:
        counts: Users with each weight.
        weights: The weights.
    """
    total = math.fsum(n * w for n, w in zip(counts, weights, strict=True))
    squares = math.fsum(n * w * w for n, w in zip(counts, weights, strict=True))
    return total * total / squares if squares else 0.0


def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t, by the expansion of Abramowitz and Stegun 26.7.5; exact for 1 and 2 degrees."""
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        a = 2 * probability - 1
        return a * math.sqrt(2 / (1 - a * a))
    z, n = NormalDist().inv_cdf(probability), float(degrees)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / n**power for power, term in enumerate(terms))
