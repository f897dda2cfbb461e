"""Named samples: which users to read, and what each stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from dedup_storage.errors import ConfigError, StorageError, known_names
from dedup_storage.lake.retries import with_retries
from dedup_storage.reader.open.cut import Cut
from dedup_storage.reader.options import Filters, ReadOptions
from dedup_storage.sampling.definition import Sample
from dedup_storage.sampling.select import Selector, make_selector
from dedup_storage.sampling.stored import IMPRESSION_WEIGHT, REQUEST_WEIGHT, USER_WEIGHT, parse_sample

__all__ = ["ReadSample", "resolve_sample", "without_weights"]


@dataclass(frozen=True)
class ReadSample:
    """What a sample means for a scan.

    Attributes:
        filters: Dates and buckets that leave files out.
        selector: Tells users; ``None`` without a sample.
        fingerprint: What a state must agree with.
    """

    filters: Filters
    selector: Selector | None = None
    fingerprint: str | None = None


def resolve_sample(cut: Cut, options: ReadOptions) -> ReadSample:
    """The filters to read with: the options' own, or those of the named sample.

    Its users, where they are stored, lie in a table of the dataset.

    Raises:
        ConfigError: there is no sample of that name, this release cannot read it, or it has caps.
        StorageError: its users cannot be read.
    """
    if options.sample is None:
        return ReadSample(options.filters)
    text, names = cut.samples.get(options.sample), list(cut.samples)
    if text is None:
        raise ConfigError(
            f"the dataset {cut.spec.name} has no sample {options.sample}",
            expected=known_names(options.sample, names) if names else "a stored sample; there is none",
            fix="Name another, or leave sample out.",
        )
    try:
        sample = parse_sample(text)
    except ValidationError:
        raise ConfigError(
            f"the sample {options.sample} of {cut.spec.name} cannot be read by this release",
            fix="Install a newer dedup_storage.",
        ) from None
    if sample.spec.caps.limited:
        raise ConfigError(
            f"the sample {options.sample} caps requests or impressions, which the reader does not do by itself",
            fix="Write it out and read that: dedup-storage sample materialise.",
        )
    chosen = sample.buckets_among(cut.spec.buckets) or None
    filters = Filters(start=sample.spec.start, end=sample.spec.end, buckets=chosen)
    return ReadSample(filters, _selector(cut, sample), sample.fingerprint)


def without_weights(options: ReadOptions) -> ReadOptions:
    """The options without the weights among the columns: a sample's batches always have them."""
    if options.sample is None or options.columns is None:
        return options
    kept = tuple(c for c in options.columns if c not in (REQUEST_WEIGHT, IMPRESSION_WEIGHT))
    return options.model_copy(update={"columns": kept})


@with_retries
def _selector(cut: Cut, sample: Sample) -> Selector:
    if sample.table is None:
        return make_selector(sample)
    fields = (cut.spec.schema_.user, USER_WEIGHT)
    users = cut.users.read(sample.table, str(sample.tag), "sampled", fields)
    if users is None:
        raise StorageError(f"the users of the sample {sample.name} are gone", fix="Drop it and make it again.")
    weights = np.asarray(users[USER_WEIGHT].to_numpy(), dtype=np.float64)
    return make_selector(sample, users[fields[0]].combine_chunks(), weights)
