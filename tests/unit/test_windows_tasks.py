"""What Spark's tasks of Python do beside their work."""

from __future__ import annotations

import importlib
import sys
import types
import zipfile
import zipimport
from pathlib import Path

import pytest

from dedup_storage.windows.tasks import forget_archive


def _archive(place: Path, package: str) -> str:
    with zipfile.ZipFile(place, "w") as file:
        for name in ("__init__", "first", "second"):
            file.writestr(f"{package}/{name}.py", f"name = '{name}'\n")
    return str(place)


def test_the_archive_of_pyspark_is_forgotten_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spark, other = _archive(tmp_path / "a.zip", "like_spark"), _archive(tmp_path / "b.zip", "other_archive")
    monkeypatch.syspath_prepend(spark)
    monkeypatch.syspath_prepend(other)
    for package in ("like_spark", "other_archive"):
        assert importlib.import_module(f"{package}.first").name == "first"
    loaded = types.ModuleType("pyspark")
    loaded.__loader__ = zipimport.zipimporter(spark)
    monkeypatch.setitem(sys.modules, "pyspark", loaded)
    assert any(place.startswith(spark) for place in sys.path_importer_cache)
    forget_archive()
    assert not any(place.startswith(spark) for place in sys.path_importer_cache)
    assert any(place.startswith(other) for place in sys.path_importer_cache)
    importlib.invalidate_caches()
    assert importlib.import_module("like_spark.second").name == "second"


def test_without_an_archive_nothing_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(sys.path_importer_cache)
    monkeypatch.delitem(sys.modules, "pyspark", raising=False)
    forget_archive()
    monkeypatch.setitem(sys.modules, "pyspark", types.ModuleType("pyspark"))
    forget_archive()
    assert sys.path_importer_cache == before
