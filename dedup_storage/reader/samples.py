"""Named samples: filters that are stored with the dataset."""

from __future__ import annotations

from pydantic import ValidationError

from dedup_storage.errors import ConfigError, known_names
from dedup_storage.layout import PROPERTY_PREFIX
from dedup_storage.reader.catalog import Cut
from dedup_storage.reader.options import Filters, ReadOptions

__all__ = ["SAMPLE_PREFIX", "resolve_sample"]

SAMPLE_PREFIX = PROPERTY_PREFIX + "sample."


def resolve_sample(cut: Cut, options: ReadOptions) -> Filters:
    """The filters to read with: the options' own, or those of the named sample.

    A sample is a property ``dedup-storage.sample.<name>`` of the anchor table that holds ``Filters`` as JSON.

    Raises:
        ConfigError: there is no sample of that name, or this release cannot read it.
    """
    if options.sample is None:
        return options.filters
    properties = cut.tables[cut.spec.anchor.name].table.properties
    text = properties.get(SAMPLE_PREFIX + options.sample)
    if text is None:
        names = [p.removeprefix(SAMPLE_PREFIX) for p in properties if p.startswith(SAMPLE_PREFIX)]
        raise ConfigError(
            f"the dataset {cut.spec.name} has no sample {options.sample}",
            expected=known_names(options.sample, names) if names else "a stored sample; there is none",
            fix="Name another, or leave sample out.",
        )
    try:
        return Filters.model_validate_json(text)
    except ValidationError:
        raise ConfigError(
            f"the sample {options.sample} of {cut.spec.name} cannot be read by this release",
            expected="filters on start, end, users, buckets",
            fix="Install a newer dedup_storage.",
        ) from None
