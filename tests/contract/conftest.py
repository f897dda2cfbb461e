"""Every test of this folder runs once for each table format.

What other suites show on Iceberg every day is slow here; so is what takes long on Delta.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.raw import RawLog
from tests.restored import restored
from tests.spark.helpers import flat_rows, flat_schema, frame

FORMATS = [pytest.param("iceberg", marks=pytest.mark.slow), "delta"]
MakeLog = Callable[..., RawLog]
# On Iceberg these have suites of their own, which CI runs.
SHOWN_ELSEWHERE = ("test_backfill", "test_features", "test_forget", "test_labels", "test_maintain", "test_samples")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        given = getattr(item, "callspec", None)
        own = item.path.parent == Path(__file__).parent and item.path.stem in SHOWN_ELSEWHERE
        if own and given is not None and given.params.get("table_format") == "iceberg":
            item.add_marker(pytest.mark.exhaustive)


@pytest.fixture(params=FORMATS)
def table_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lake(settings: Settings, table_format: str) -> Settings:
    """The suite's settings with the format at hand; both formats lie in one warehouse."""
    return settings.model_copy(update={"format": table_format})


@pytest.fixture
def make_log(spark: SparkSession) -> MakeLog:
    def made(days: list[int], first_request: int = 0, **changes: Any) -> RawLog:
        return RawLog.from_frame(frame(spark, flat_rows(days, first_request=first_request)), flat_schema(**changes))

    return made


def written(spark: SparkSession, lake: Settings, name: str, raw: RawLog) -> Dataset:
    created = Dataset.create(spark, lake, name, raw.schema, raw)
    created.write(raw, run_id="day-1", gate=False)
    return created


@pytest.fixture
def ds(spark: SparkSession, lake: Settings, make_log: MakeLog) -> Dataset:
    """A split dataset of one day, version 1."""
    return restored(spark, lake, "a day", lambda name: written(spark, lake, name, make_log([1])))


def second_day(created: Dataset) -> None:
    raw = RawLog.from_frame(frame(created.spark, flat_rows([2], first_request=100)), flat_schema())
    created.write(raw, run_id="day-2", gate=False)


@pytest.fixture
def two_days(spark: SparkSession, lake: Settings, make_log: MakeLog) -> Dataset:
    """What ``ds`` is, and a second day, ``make_log([2], 100)``, version 2."""
    return restored(spark, lake, "a day", lambda name: written(spark, lake, name, make_log([1])), second_day)


@pytest.fixture(scope="session")
def standing_datasets() -> dict[str, Dataset]:
    """Format -> the dataset that tests of this worker share."""
    return {}


@pytest.fixture
def standing(
    spark: SparkSession, lake: Settings, make_log: MakeLog, standing_datasets: dict[str, Dataset]
) -> Iterator[Dataset]:
    """What ``ds`` is, built once for each format: for tests that publish nothing."""
    if lake.format not in standing_datasets:
        standing_datasets[lake.format] = written(spark, lake, f"t_standing_{lake.format}", make_log([1]))
    shared = standing_datasets[lake.format]
    yield shared
    found = shared.versions()
    assert [(v.version, v.run_id, v.pins) for v in found] == [(1, "day-1", ())], "a test changed the shared dataset"
