"""Jars that fit the Spark that is installed; those that do not are refused by name."""

from __future__ import annotations

from importlib import metadata

import pytest

from dedup_storage.engines import ENGINES, installed_engine, of_engine, require_engine
from dedup_storage.errors import ConfigError
from dedup_storage.settings_file import default_packages, embedded_file, read_file

OLD, NEW = ENGINES["4.0"], ENGINES["4.1"]
DRIVER = "org.xerial:sqlite-jdbc:3.50.3.0"


@pytest.mark.parametrize(
    ("version", "engine"), [("4.0.5", OLD), ("4.0.0", OLD), ("4.1.4", NEW), ("4.1.0.dev1", NEW), ("4.2.1", NEW)]
)
def test_defaults_are_made_for_the_installed_spark(
    monkeypatch: pytest.MonkeyPatch, version: str, engine: object
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert installed_engine() is engine
    assert of_engine([NEW.iceberg, DRIVER]) == (installed_engine().iceberg, DRIVER)
    assert list(default_packages()) == read_file(embedded_file())["spark"]["packages"]
    assert installed_engine().iceberg in default_packages()


def test_without_spark_the_newest_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert installed_engine() is NEW


def test_jars_of_the_running_spark_pass() -> None:
    require_engine([NEW.iceberg, NEW.delta, DRIVER, "org.apache.iceberg:iceberg-aws-bundle:1.12.0"], "4.1.4")
    # Another release of the jar for the same Spark is the doctor's to tell.
    require_engine(["org.apache.iceberg:iceberg-spark-runtime-4.0_2.13:1.10.1"], "4.0.1")


@pytest.mark.parametrize(
    ("package", "spark", "remedy"),
    [
        (NEW.iceberg, "4.0.5", f"Write {OLD.iceberg}"),
        (NEW.delta, "4.0.5", f"Write {OLD.delta}"),
        ("org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:1.9.0", "4.1.4", f"Write {NEW.iceberg}"),
        (NEW.iceberg, "4.2.1", "Install a release of Spark that was tried: 4.0.5 and 4.1.4"),
    ],
)
def test_jars_of_another_spark_are_refused(package: str, spark: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as refused:
        require_engine([DRIVER, package], spark)
    assert package in str(refused.value)
    assert remedy in str(refused.value)
