"""Plugins that run parts of Spark's plans in its place and are known to lose rows of joins inside buckets.

Plans look the same with them: the rows are lost where the plan is run, so nothing but the session's own settings tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import SparkSession

from dedup_storage.lake.engine.versions import rapids_version

__all__ = ["LosingPlugin", "losing_plugins", "other_engines"]

_NAMED = ("spark.plugins", "spark.sql.extensions")
# What else is known to run scans and joins itself: part of a class's name -> what people call it.
_OTHERS = {"gluten": "Gluten", "org.apache.comet": "Comet", "CometPlugin": "Comet", "photon": "Photon"}


@dataclass(frozen=True)
class _Known:
    """A plugin that has lost rows.

    Attributes:
        title: What people call it.
        mark: Part of the names of its classes.
        switch: The setting that switches it off.
        fixed: The first version without the fault; empty where none is known.
        version: Tells the version of a session's plugin.
        unequal: Only joins of unequal bucket counts lose rows; else every join inside buckets may.
        report: Where it is reported.
    """

    title: str
    mark: str
    switch: str
    fixed: tuple[int, ...]
    version: Callable[[SparkSession], str | None]
    unequal: bool
    report: str


_KNOWN = (
    # Merged on 21 August 2026 at the earliest, when the code of 26.08 is closed.
    _Known("RAPIDS", "com.nvidia.spark", "spark.rapids.sql.enabled", (26, 10), lambda spark: rapids_version(spark),
           True, "NVIDIA/cudf-spark#15721"),
    _Known("Auron", "auron", "spark.auron.enable", (), lambda spark: None, False, "apache/auron#2390"),
)  # fmt: skip


@dataclass(frozen=True)
class LosingPlugin:
    """A plugin of a session, in a version that loses rows.

    Attributes:
        told: Its name and version.
        unequal: Only joins of unequal bucket counts lose rows.
        remedy: What to do.
        report: Where it is reported.
    """

    told: str
    unequal: bool
    remedy: str
    report: str

    @property
    def loses(self) -> str:
        """The joins that lose rows."""
        kind = "joins of unequal bucket counts" if self.unequal else "joins inside buckets"
        return f"{kind} ({self.report})"


def losing_plugins(spark: SparkSession) -> tuple[LosingPlugin, ...]:
    """The plugins of a session that lose rows; those that are switched off do not count."""
    named = _named(spark)
    return tuple(
        _losing(spark, known)
        for known in _KNOWN
        if known.mark in named and _is_on(spark, known.switch) and not _is_fixed(spark, known)
    )


def other_engines(spark: SparkSession) -> list[str]:
    """Plugins of a session that run parts of plans, and of which nothing is known here."""
    named = _named(spark)
    return list(dict.fromkeys(title for mark, title in _OTHERS.items() if mark in named))


def _named(spark: SparkSession) -> str:
    return ",".join(spark.conf.get(key, "") or "" for key in _NAMED)


def _is_on(spark: SparkSession, switch: str) -> bool:
    return str(spark.conf.get(switch, "true")).lower() != "false"


def _is_fixed(spark: SparkSession, known: _Known) -> bool:
    if not known.fixed:
        return False
    # Without a version it may be any.
    found = re.match(r"(\d+)\.(\d+)", known.version(spark) or "")
    return found is not None and (int(found[1]), int(found[2])) >= known.fixed


def _losing(spark: SparkSession, known: _Known) -> LosingPlugin:
    version = known.version(spark)
    off = f"set {known.switch} to false for this session"
    newer = f"Use {known.title} {'.'.join(f'{n:02}' for n in known.fixed)} or newer, or {off}."
    return LosingPlugin(
        told=f"{known.title} {version or 'of an unknown version'}",
        unequal=known.unequal,
        remedy=newer if known.fixed else f"{off[:1].upper()}{off[1:]}.",
        report=known.report,
    )
