"""An empty folder for each test of sources, and the commands' settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from tests.sources.cases import Case


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def case(spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Case:
    """The suite's session; commands find its warehouse."""
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", settings.warehouse)
    return Case(spark, settings)
