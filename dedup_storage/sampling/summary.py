"""What making a sample reports, and what a report on it holds."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from dedup_storage.sampling.definition import Sample, StratumCount
from dedup_storage.sampling.estimate import effective_size

__all__ = ["MetricEstimate", "SampleReport", "SampleSummary", "StratumRow", "Weights", "summarize"]


class StratumRow(BaseModel):
    """One stratum: requested and realised.

    Attributes:
        stratum: Its label.
        users: Users in it.
        requested: Users asked for: a count, or the share times the users.
        sampled: Users in the sample.
        share: sampled / users.
        weight: Inverse inclusion probability of its users.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stratum: str
    users: int
    requested: float
    sampled: int
    share: float
    weight: float


class SampleSummary(BaseModel):
    """A sample, as people read it.

    Attributes:
        dataset, name: Which.
        version: The version whose users it was made from.
        design: ``shares``, ``counts``, ``buckets`` or ``capped``; see ``sampling.estimate.Design``.
        users: Users in the sample.
        population: Users it was drawn from.
        effective_users: Users of an unweighted sample that would say as much about an unrelated measure.
        unchanged: Nothing had to be done.
        dry_run: Nothing was done: what the sample would be.
        strata: Counts by stratum.
        borders: Where divided strata are cut.
        hints: What to keep in mind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    name: str
    version: int
    design: str
    users: int
    population: int
    effective_users: float
    unchanged: bool = False
    dry_run: bool = False
    strata: tuple[StratumRow, ...] = ()
    borders: dict[str, tuple[float, ...]] = {}
    hints: tuple[str, ...] = ()


class MetricEstimate(BaseModel):
    """One metric.

    Attributes:
        metric: Its name.
        estimate, standard_error, low, high: Weighted, with its interval.
        unweighted: What the sample says if its weights are forgotten.
        truth: On the full data, if asked for.
        covered: Whether the interval holds the truth.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    estimate: float
    standard_error: float
    low: float
    high: float
    unweighted: float | None = None
    truth: float | None = None
    covered: bool | None = None


class Weights(BaseModel):
    """Spread of the users' weights.

    Attributes:
        least, mean, most: Of the sampled users.
        design_effect: Users / effective users: how many times larger the sample must be for having unequal weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    least: float
    mean: float
    most: float
    design_effect: float


class SampleReport(BaseModel):
    """A sample: requested and realised, weights, estimates, bytes.

    Attributes:
        summary: Counts by stratum.
        created: When, UTC.
        definition: The sample's definition.
        confidence: Level of the intervals.
        weights: Their spread.
        metrics: Estimates.
        planned_bytes, all_bytes: Bytes of the files that the sample opens, and of all.
        read_bytes: Bytes that Spark read for the estimates, columns not needed left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    summary: SampleSummary
    created: str
    definition: dict[str, Any]
    confidence: float
    weights: Weights
    metrics: tuple[MetricEstimate, ...]
    planned_bytes: int
    all_bytes: int
    read_bytes: int


def summarize(dataset: str, sample: Sample, *, unchanged: bool = False, dry_run: bool = False) -> SampleSummary:
    """The summary of a sample that is stored, or by a dry run would be."""
    rows = tuple(_row(count) for count in sample.strata)
    return SampleSummary(
        dataset=dataset,
        name=sample.name,
        version=sample.version,
        design=sample.spec.design.value,
        users=sample.users,
        population=sum(s.users for s in sample.strata),
        effective_users=round(effective_size([s.sampled for s in sample.strata], [s.weight for s in sample.strata]), 1),
        unchanged=unchanged,
        dry_run=dry_run,
        strata=rows,
        borders=dict(sample.borders),
        hints=tuple(_hints(sample)),
    )


def _row(count: StratumCount) -> StratumRow:
    requested = count.users * count.probability if count.requested is None else count.requested
    return StratumRow(
        stratum=count.label,
        users=count.users,
        requested=round(requested, 1),
        sampled=count.sampled,
        share=round(count.sampled / count.users, 6) if count.users else 0.0,
        weight=round(count.weight, 6),
    )


def _hints(sample: Sample) -> list[str]:
    hints = []
    left_out = [s.label for s in sample.strata if s.users and not s.probability]
    if left_out:
        hints.append(f"No user of {', '.join(left_out[:5])} can be in the sample: estimates say nothing of them.")
    unlucky = [s.label for s in sample.strata if s.probability and s.users and not s.sampled]
    if unlucky:
        hints.append(f"Chance gave no user of {', '.join(unlucky[:5])}: raise the share, or ask for a count.")
    if sample.spec.buckets is not None and sample.spec.buckets < 10:
        hints.append("Few buckets make wide intervals: users of one bucket come or stay away together.")
    return hints
