"""One Spark session for the whole suite; a fresh namespace and, without Spark, a fresh warehouse for each test."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from dedup_storage.config import Settings, load_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# No test is timed: a busy machine must not fail one.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of an embedded lake that lives as long as the test run."""
    from dedup_storage.lake.delta.session import DELTA_PACKAGE

    packages = load_settings(ROOT / "conf" / "local.yaml", {}).spark.packages
    warehouse = tmp_path_factory.mktemp("lake") / "warehouse"
    return load_settings(
        ROOT / "conf" / "local.yaml",
        {
            "DEDUP_STORAGE_WAREHOUSE": str(warehouse),
            # Both table formats in the one session.
            "DEDUP_STORAGE_SPARK__PACKAGES": json.dumps([*packages, DELTA_PACKAGE]),
            "DEDUP_STORAGE_SPARK__MASTER": "local[2]",
            "DEDUP_STORAGE_SPARK__CONF": "{spark.sql.shuffle.partitions: '2', spark.ui.enabled: 'false', "
            "spark.driver.memory: 2g, spark.default.parallelism: '2', spark.ui.showConsoleProgress: 'false'}",
        },
    )


@pytest.fixture(scope="session")
def spark(settings: Settings) -> Iterator[SparkSession]:
    """The suite's Spark session."""
    from dedup_storage.lake.session import get_spark

    session = get_spark(settings, "dedup_storage tests")
    yield session
    session.stop()


@pytest.fixture
def name() -> str:
    """A dataset name nobody used before."""
    return f"t_{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def ebnerd() -> Path:
    """Directory of the EB-NeRD sample."""
    place = os.environ.get("EBNERD_DIR")
    if not place:
        pytest.skip("EBNERD_DIR does not name the EB-NeRD sample")
    return Path(place)
