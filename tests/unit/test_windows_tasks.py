"""What Spark's tasks of Python do beside their work."""

from __future__ import annotations

import importlib
import sys
import zipfile
from pathlib import Path

import pytest

from dedup_storage.windows.tasks import forget_archives


def _archive(place: Path, package: str) -> str:
    with zipfile.ZipFile(place, "w") as file:
        for name in ("__init__", "first", "second"):
            file.writestr(f"{package}/{name}.py", f"name = '{name}'\n")
    return str(place)


def test_archives_of_spark_are_forgotten_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"pyspark.zip": "like_spark", "py4j-0.1-src.zip": "like_py4j", "a_format-1.0.jar": "in_a_jar"}
    own = [_archive(tmp_path / name, package) for name, package in names.items()]
    other = _archive(tmp_path / "my-pyspark.zip", "of_a_user")
    for place in (*own, other):
        monkeypatch.syspath_prepend(place)
    for package in (*names.values(), "of_a_user"):
        assert importlib.import_module(f"{package}.first").name == "first"
    assert all(any(known.startswith(place) for known in sys.path_importer_cache) for place in own)
    forget_archives()
    assert not any(known.startswith(tuple(own)) for known in sys.path_importer_cache)
    assert any(known.startswith(other) for known in sys.path_importer_cache)
    importlib.invalidate_caches()
    for package in (*names.values(), "of_a_user"):
        assert importlib.import_module(f"{package}.second").name == "second"


def test_folders_are_not_forgotten() -> None:
    before = {place for place, finder in sys.path_importer_cache.items() if not hasattr(finder, "archive")}
    forget_archives()
    assert before <= set(sys.path_importer_cache)
