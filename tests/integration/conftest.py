"""Jobs recorded once a file, with what each would leave on the disk where it dies."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from tests.integration.crash_jobs import JOBS
from tests.integration.images import Images, record
from tests.restored import restored

__all__ = ["Recorded", "case"]

Recorded = Callable[[str, str], Images]


def case(*values: Any, alike: bool) -> Any:
    """Parameters of a test; those that are much ``alike`` others are left to `make test-slow`."""
    return pytest.param(*values, marks=[pytest.mark.slow, pytest.mark.exhaustive] if alike else [])


@pytest.fixture(scope="module")
def recorded(spark: SparkSession, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Images of a job, by its name and the table format."""

    @cache
    def of(job: str, table_format: str) -> Images:
        lake = settings.model_copy(update={"format": table_format})
        begin = JOBS[job].begin
        # Jobs that begin alike begin with one dataset: each test puts an image in its place.
        ds = restored(spark, lake, begin, lambda name: begin(spark, lake, name), *JOBS[job].before)
        names = (ds.name, *(f"{ds.name}{end}" for end in JOBS[job].also))
        images = Images(spark, lake, tmp_path_factory.mktemp("images"), names)
        record(images, lambda: JOBS[job].act(ds))
        return images

    return of
