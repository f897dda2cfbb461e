"""How a sample's record is kept in the anchor table's properties, and the names of its weights."""

from __future__ import annotations

from dedup_storage.layout import PROPERTY_PREFIX
from dedup_storage.sampling.definition import Sample

__all__ = ["IMPRESSION_WEIGHT", "REQUEST_WEIGHT", "SAMPLE_PREFIX", "USER_WEIGHT", "parse_sample"]

SAMPLE_PREFIX = PROPERTY_PREFIX + "sample."
# Columns that a sample's users, requests and impressions have beside the dataset's own.
USER_WEIGHT, REQUEST_WEIGHT, IMPRESSION_WEIGHT = "user_weight", "request_weight", "impression_weight"


def parse_sample(text: str) -> Sample:
    """Read a record.

    Raises:
        pydantic.ValidationError: this release does not understand it.
    """
    return Sample.model_validate_json(text)
