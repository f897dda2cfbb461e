"""What a format does not have is refused before anything is done; what it has is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import UsageError
from dedup_storage.spark.dataset import Dataset
from dedup_storage.spark.raw import RawLog
from tests.spark.helpers import flat_rows, flat_schema, frame

CALLS: dict[str, Callable[[Dataset], object]] = {
    "erasing users": lambda ds: ds.forget_users([1]),
}


@pytest.mark.parametrize("what", list(CALLS))
def test_delta_refuses_what_it_does_not_have(spark: SparkSession, settings: Settings, name: str, what: str) -> None:
    lake = settings.model_copy(update={"format": "delta"})
    raw = RawLog.from_frame(frame(spark, flat_rows([1])), flat_schema())
    ds = Dataset.create(spark, lake, name, raw.schema, raw)
    with pytest.raises(UsageError, match=f"{what} is not available on Delta tables.*dedup-storage convert"):
        CALLS[what](ds)
    assert ds.metadata().version_numbers == []
