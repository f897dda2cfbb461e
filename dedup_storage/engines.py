"""Releases of Spark, Iceberg and Delta that were tried together: a jar is made for one minor release of Spark. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from dedup_storage.errors import ConfigError

__all__ = ["ENGINES", "Engine", "installed_engine", "of_engine", "require_engine"]

_NEWEST = "4.1"
_MADE_FOR = re.compile(r"(?P<artifact>.*:(?:iceberg-spark-runtime-|delta-spark_))(?P<minor>\d+\.\d+)_[\d.]+:.*")


@dataclass(frozen=True)
class Engine:
    """A release of Spark with the jars of both formats that it was tried with.

    Attributes:
        spark: Release of Spark.
        iceberg, delta: Maven coordinates.
    """

    spark: str
    iceberg: str
    delta: str

    @property
    def jars(self) -> tuple[str, str]:
        """Both coordinates."""
        return self.iceberg, self.delta


# What passed the tests named in docs/support.md, by Spark's minor release.
ENGINES = {
    "4.0": Engine(
        "4.0.5", "org.apache.iceberg:iceberg-spark-runtime-4.0_2.13:1.11.0", "io.delta:delta-spark_4.0_2.13:4.4.0"
    ),
    "4.1": Engine(
        "4.1.4", "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0", "io.delta:delta-spark_4.1_2.13:4.4.0"
    ),
}


def installed_engine() -> Engine:
    """The engine of the installed Spark; the newest where none is installed, or one that was not tried."""
    try:
        version = metadata.version("pyspark")
    except metadata.PackageNotFoundError:
        version = _NEWEST
    return ENGINES.get(_minor(version), ENGINES[_NEWEST])


def of_engine(packages: Iterable[str]) -> tuple[str, ...]:
    """Coordinates of the embedded defaults with both formats' jars made for the installed Spark."""
    engine = installed_engine()
    named = {_artifact(coordinate): coordinate for coordinate in engine.jars}
    return tuple(named.get(_artifact(package), package) for package in packages)


def require_engine(packages: Iterable[str], spark: str) -> None:
    """Refuse jars that were made for another Spark than runs: they fail far from here, in calls that are not there.

    Args:
        packages: Maven coordinates.
        spark: Release of the Spark that runs.

    Raises:
        ConfigError: names the coordinate, and that of the release where one was tried.
    """
    for package in packages:
        match = _MADE_FOR.fullmatch(package)
        if match is None or match["minor"] == _minor(spark):
            continue
        engine = ENGINES.get(_minor(spark))
        right = next((c for c in engine.jars if _artifact(c) == match["artifact"]), None) if engine else None
        tried = " and ".join(f"{one.spark}" for one in ENGINES.values())
        raise ConfigError(
            f"spark.packages names {package}, made for Spark {match['minor']}",
            expected=f"a jar made for Spark {spark}, which is installed",
            fix=f"Write {right}." if right else f"Install a release of Spark that was tried: {tried}.",
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _artifact(coordinate: str) -> str:
    """The artifact without the Spark that it is made for."""
    match = _MADE_FOR.fullmatch(coordinate)
    return match["artifact"] if match else coordinate
