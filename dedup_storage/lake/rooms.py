"""The table formats' rooms by name: each is a package beside this module, brought in when it is asked for.

A room has six modules that the registry calls, so that a format is added by its room and by its name in
``config.FORMATS``:

- ``metadata.open_lake(settings)`` gives its ``Catalog``, without Spark;
- ``admin.open_admin(settings)`` gives its ``Admin``, without Spark;
- ``format.open_format(spark, settings)`` gives its ``TableFormat``;
- ``session.session_needs(settings)`` gives the ``SessionNeeds`` of a Spark session;
- ``scans.scan_of(operator)`` gives the ``Scan`` that an operator of a plan is, or ``None``;
- ``probes.open_probes(settings, probes, joined=…)`` gives its ``FormatProbes``, without Spark, and
  ``probes.jars_needed(settings)`` the ``Jar``s that Spark needs for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dedup_storage.config import check_format

__all__ = ["room_part"]


def room_part(name: str, part: str) -> Any:
    """A module of a format's room.

    Args:
        name: The format.
        part: ``metadata``, ``admin``, ``format``, ``session``, ``scans`` or ``probes``.

    Raises:
        ConfigError: there is no such format.
    """
    return import_module(f"dedup_storage.lake.{check_format(name)}.{part}")
