"""One Spark session for each worker of pytest-xdist; a fresh namespace and, without Spark, a fresh warehouse a test."""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from dedup_storage import faults
from dedup_storage.config import Settings, load_settings
from dedup_storage.engines import of_engine
from tests.classes import FOLDER, java_options
from tests.memory import leave_memory, use_memory
from tests.small_queries import SMALL_QUERIES

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# No test is timed: a busy machine must not fail one. Continuous integration draws the same examples every time;
# `make test-slow` draws ten times as many (tests with a number of their own multiply it, `tests.strategies.examples`).
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "untimed")

# Workers share the cores: one thread of torch each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """The run's own process chooses where temporary files lie; its workers take that over."""
    if not hasattr(config, "workerinput") and not config.option.collectonly:
        folder = use_memory()
        config.add_cleanup(lambda: leave_memory(folder))
        if (cache := getattr(config, "cache", None)) is not None:
            os.environ[FOLDER] = str(cache.mkdir("classes"))


ROOT = Path(__file__).resolve().parent.parent
_JAVA = "spark.driver.extraJavaOptions"
# The second compiler costs a minute of work, which a run of half an hour gets back.
_COMPILERS = "" if os.environ.get("TEST_COMPILERS") == "all" else "-XX:TieredStopAtLevel=1"
SPARK_CONF = {
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.memory": "2g",
    # Where only the JVM's first compiler works, its cache of compiled code is small by default; so is the size of
    # loaded classes at which garbage is collected.
    _JAVA: f"{_COMPILERS} -XX:+UseSerialGC -Xmn900m -XX:ReservedCodeCacheSize=256m -XX:MetaspaceSize=256m",
    **SMALL_QUERIES,
}


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of an embedded lake that lives as long as the test run."""
    from dedup_storage.lake.delta.session import DELTA_PACKAGE

    packages = of_engine(load_settings(ROOT / "conf" / "local.yaml", {}).spark.packages)
    java = {_JAVA: f"{SPARK_CONF[_JAVA]} {java_options(recording=True)}"}
    warehouse = tmp_path_factory.mktemp("lake") / "warehouse"
    return load_settings(
        ROOT / "conf" / "local.yaml",
        {
            "DEDUP_STORAGE_WAREHOUSE": str(warehouse),
            # Both table formats in the one session.
            "DEDUP_STORAGE_SPARK__PACKAGES": json.dumps([*packages, DELTA_PACKAGE]),
            "DEDUP_STORAGE_SPARK__MASTER": "local[2]",
            "DEDUP_STORAGE_SPARK__CONF": json.dumps(SPARK_CONF | java),
        },
    )


@pytest.fixture(scope="session")
def spark(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The worker's Spark session."""
    from dedup_storage.lake.session import get_spark

    # One worker at a time: two that download Spark's packages into one cache break each other's.
    with open(tmp_path_factory.getbasetemp().parent / "session.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        session = get_spark(settings, "dedup_storage tests")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def compiled(spark: SparkSession) -> Iterator[None]:
    """Queries are compiled as Spark does by default: for modules that look at plans, or show every type."""
    # A run's own session takes on what is set, not what is unset.
    defaults = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}
    for key, value in defaults.items():
        spark.conf.set(key, value)
    yield
    for key in defaults:
        spark.conf.set(key, SPARK_CONF[key])


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


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """Does something once, where a point of a job is reached for the first time."""

    def arranged(point: str, action: Callable[[], object]) -> None:
        def watch(reached: str) -> None:
            if reached == point:
                monkeypatch.setattr(faults, "watcher", None)
                action()

        monkeypatch.setattr(faults, "watcher", watch)

    return arranged
