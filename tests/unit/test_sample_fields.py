"""The typed fields that ``Dataset.samples.make`` takes are those of a sample's definition."""

from __future__ import annotations

from dedup_storage.dataset.samples.accessor import SampleFields
from dedup_storage.sampling.definition import SampleSpec


def test_every_field_of_a_definition_can_be_given_by_name() -> None:
    assert set(SampleFields.__annotations__) == set(SampleSpec.model_fields)
