"""What a sample says of the data: estimates with intervals, and with ``verify`` the truth beside them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.read import frames as read
from dedup_storage.dataset.samples.columns import counts_as_label, label_value
from dedup_storage.dataset.samples.frames import SampledFrames
from dedup_storage.dataset.samples.plan import plan_sample
from dedup_storage.dataset.samples.users import STRATUM
from dedup_storage.lake.engine.status import counted_reads
from dedup_storage.layout import DatasetSpec
from dedup_storage.sampling.definition import Caps, Keep, Sample, SampleSpec, StratumCount
from dedup_storage.sampling.estimate import Moments, effective_size, ratio
from dedup_storage.sampling.stored import IMPRESSION_WEIGHT, REQUEST_WEIGHT, USER_WEIGHT
from dedup_storage.sampling.summary import MetricEstimate, SampleReport, Weights, summarize
from dedup_storage.spark.rows import only_row
from dedup_storage.spark.types import struct_of

__all__ = ["sample_report"]

_REQUESTS, _LENGTH, _SHOWN, _LABEL, _LABELLED, _ONE = "_requests", "_length", "_shown", "_label", "_labelled", "_one"
_PRODUCTS = ("y", "x", "yy", "xy", "xx")


def sample_report(
    handle: Handle, sample: Sample, *, verify: bool = False, confidence: float = 0.95, version: int | None = None
) -> SampleReport:
    """Estimate label rate, requests per user, impressions per request and sequence length.

    Args:
        handle: The dataset.
        sample: The sample.
        verify: Also compute the truth on the full data: one pass over all of it.
        confidence: Level of the intervals.
        version: Whose rows are read; ``None`` takes the version that the sample was made from.
    """
    version = sample.version if version is None else version
    frames = SampledFrames(handle, sample, version)
    metrics = _metrics(frames.spec)
    with counted_reads(handle.spark) as reads:
        strata = _moments(frames, metrics)
    truth = _truth(frames, metrics) if verify else {}
    estimates = []
    for name in metrics:
        estimate = ratio(strata[name], sample.spec.design, confidence=confidence)
        bottom = sum(m.x for m in strata[name])
        known = truth.get(name)
        estimates.append(
            MetricEstimate(
                metric=name,
                estimate=estimate.value,
                standard_error=estimate.standard_error,
                low=estimate.low,
                high=estimate.high,
                unweighted=sum(m.y for m in strata[name]) / bottom if bottom else None,
                truth=known,
                covered=None if known is None else estimate.covers(known),
            )
        )
    plan = plan_sample(handle, sample, version)
    return SampleReport(
        summary=summarize(handle.name, sample),
        created=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        definition=sample.spec.model_dump(mode="json", exclude_defaults=True),
        confidence=confidence,
        weights=_weights(sample),
        metrics=tuple(estimates),
        planned_bytes=plan.bytes,
        all_bytes=plan.all_bytes,
        read_bytes=reads.bytes,
    )


def _weights(sample: Sample) -> Weights:
    """Spread of the users' weights."""
    strata = [(s.sampled, s.weight) for s in sample.strata if s.sampled]
    users = sum(n for n, _ in strata)
    effective = effective_size([n for n, _ in strata], [w for _, w in strata])
    return Weights(
        least=min((w for _, w in strata), default=0.0),
        mean=sum(n * w for n, w in strata) / users if users else 0.0,
        most=max((w for _, w in strata), default=0.0),
        design_effect=users / effective if effective else 0.0,
    )


def _label_of(spec: DatasetSpec) -> str | None:
    """The label whose rate is told: the first, where its values can be added up."""
    label = next(iter(spec.schema_.labels), None)
    counts = label is not None and counts_as_label(struct_of({label: spec.types[label]}).fields[0].dataType)
    return label if counts else None


def _metrics(spec: DatasetSpec) -> dict[str, tuple[str, str]]:
    """Metric -> numerator and denominator among the users' totals."""
    metrics = {"requests per user": (_REQUESTS, _ONE), "impressions per request": (_SHOWN, _REQUESTS)}
    if _label_of(spec) is not None:
        metrics = {"label rate": (_LABEL, _LABELLED), **metrics}
    if spec.schema_.sequence_columns:
        metrics["sequence length"] = (_LENGTH, _REQUESTS)
    return metrics


def _totals(frames: SampledFrames) -> DataFrame:
    """Sampled users with their stratum and totals; what caps took away is weighed back in."""
    handle, spec, version = frames.handle, frames.spec, frames.version
    user, lists, label = spec.schema_.user, spec.schema_.sequence_columns[:1], _label_of(spec)
    weight = F.col(REQUEST_WEIGHT)
    requests = frames.requests(read.requests(handle, version).select(*spec.request_key, *lists))
    sums = [F.sum(weight).alias(_REQUESTS)]
    if lists:
        sums.append(F.sum(weight * F.coalesce(F.array_size(lists[0]), F.lit(0))).alias(_LENGTH))
    by_request = requests.groupBy(user).agg(*sums)
    weight = F.col(IMPRESSION_WEIGHT)
    shown = dict.fromkeys((*spec.impression_key, *([label] if label is not None else [])))
    impressions = frames.impressions(read.impressions(handle, version).select(*shown))
    sums = [F.sum(weight).alias(_SHOWN)]
    if label is not None:
        value = label_value(impressions, label)
        sums += [F.sum(weight * value).alias(_LABEL), F.sum(F.when(value.isNotNull(), weight)).alias(_LABELLED)]
    by_impression = impressions.groupBy(user).agg(*sums)
    joined = frames.users().join(by_request, user, "left").join(by_impression, user, "left")
    names = [c for c in (_REQUESTS, _LENGTH, _SHOWN, _LABEL, _LABELLED) if c in joined.columns]
    # Totals of the user itself: its own weight comes in with the estimate.
    own = [(F.coalesce(F.col(c), F.lit(0.0)) / F.col(USER_WEIGHT)).alias(c) for c in names]
    return joined.select(user, STRATUM, *own, F.lit(1.0).alias(_ONE))


def _sums(metrics: Mapping[str, tuple[str, str]]) -> list[Column]:
    sums = []
    for number, (top, bottom) in enumerate(metrics.values()):
        y, x = F.col(top), F.col(bottom)
        products = (y, x, y * y, x * y, x * x)
        sums += [F.sum(c).alias(f"{name}{number}") for name, c in zip(_PRODUCTS, products, strict=True)]
    return sums


def _moments(frames: SampledFrames, metrics: Mapping[str, tuple[str, str]]) -> dict[str, list[Moments]]:
    handle, sample, totals = frames.handle, frames.sample, _totals(frames)
    count = F.count(F.lit(1)).alias("n")
    if sample.spec.buckets is not None:
        # Buckets are the elements; one without users is an element of zeros.
        names = dict.fromkeys(c for pair in metrics.values() for c in pair)
        together = totals.groupBy(handle.tables.bucket(frames.spec).alias("_bucket")).agg(
            *(F.sum(c).alias(c) for c in names)
        )
        row = only_row(together.agg(count, *_sums(metrics)))
        taken, total = len(sample.chosen_buckets), frames.spec.buckets
        stratum = StratumCount(label="all", users=total, sampled=taken, probability=taken / total)
        return {name: [_moment(row, number, stratum)] for number, name in enumerate(metrics)}
    # One row for each stratum, of which a sample has a thousand at most.
    rows = {row[STRATUM]: row for row in totals.groupBy(STRATUM).agg(count, *_sums(metrics)).collect()}
    return {
        name: [_moment(rows[s.label], number, s) for s in sample.strata if s.label in rows]
        for number, name in enumerate(metrics)
    }


def _moment(row: Row, number: int, stratum: StratumCount) -> Moments:
    sums = {name: float(row[f"{name}{number}"] or 0.0) for name in _PRODUCTS}
    return Moments(stratum.sampled, stratum.users, stratum.probability, **sums)


def _truth(sampled: SampledFrames, metrics: Mapping[str, tuple[str, str]]) -> dict[str, float | None]:
    """The same ratios over everybody: the sample's dates, and those caps that are no random choice."""
    sample, caps = sampled.sample, sampled.sample.spec.caps
    fixed = Caps(requests=caps.requests, keep=caps.keep) if caps.keep is not Keep.RANDOM else Caps()
    spec = SampleSpec(fraction=1, start=sample.spec.start, end=sample.spec.end, caps=fixed)
    everybody = sample.model_copy(
        update={
            "spec": spec, "table": None, "tag": None, "chosen_buckets": (),
            "strata": (StratumCount(label="all", users=0, sampled=0, probability=1.0),),
        }
    )  # fmt: skip
    totals = _totals(SampledFrames(sampled.handle, everybody, sampled.version))
    names = dict.fromkeys(c for pair in metrics.values() for c in pair)
    row = only_row(totals.agg(*(F.sum(c).alias(c) for c in names)))
    return {m: float(row[top]) / float(row[bottom]) if row[bottom] else None for m, (top, bottom) in metrics.items()}
