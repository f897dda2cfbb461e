"""One examination: every probe in turn, whatever the ones before it found, and nothing left behind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from dedup_storage.config import Settings
from dedup_storage.doctor.machine import JAVA, PACKAGES, take_machine
from dedup_storage.lake.hiding import secrets_of
from dedup_storage.lake.probing import Finding, FormatProbes, Probe, Probes, State
from dedup_storage.lake.rooms import room_part
from dedup_storage.secrets import hidden

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["SPARK", "Diagnosis", "examine"]

SPARK, _LEFT = "Spark starts", "nothing is left behind"
_START_REMEDY = "Run again with --debug, which shows Spark's own output."


class Diagnosis(BaseModel):
    """What an examination found.

    Attributes:
        settings: Where the settings were read from.
        format: The table format.
        warehouse: Where tables lie, as the settings say.
        probes: The results, in the order in which they were taken.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: str
    format: str
    warehouse: str
    probes: tuple[Probe, ...]

    @property
    def missing(self) -> tuple[Probe, ...]:
        """What is needed and does not work."""
        return tuple(probe for probe in self.probes if probe.state is State.MISSING)


def examine(
    settings: Settings,
    start: Callable[[Settings], AbstractContextManager[SparkSession]] | None = None,
    step: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Diagnosis:
    """Try what the toolkit needs of a configuration. Nothing of a dataset is read or changed.

    Args:
        settings: The configuration.
        start: Starts or joins a Spark session for some settings; ``None`` takes the probes that need no JVM.
        step: Shows that something is under way.

    Returns:
        Every result; none of them shows a secret.
    """
    probes, left = Probes(secrets_of(settings)), list[str]()
    with step("Probing packages"):
        take_machine(settings, probes, spark=start is not None)
        room = _room(settings, probes)
    try:
        if room is not None:
            with step("Probing catalog and store"):
                known = room.place() is not None
                left += _store(room, probes) if known else []
                room.catalog()
                left += [] if known else _store(room, probes)
        if start is not None:
            _engine(settings, room, probes, start, step)
        else:
            probes.take(SPARK, lambda: Finding("not asked for (--no-spark)", State.NOT_NEEDED))
    finally:
        left += [] if room is None else room.close()
    probes.take(_LEFT, lambda: _cleaned(left))
    return Diagnosis(
        settings=settings.origin,
        format=settings.format,
        warehouse=hidden(settings.warehouse_uri),
        probes=tuple(probes.taken.values()),
    )


def _room(settings: Settings, probes: Probes) -> FormatProbes | None:
    """What the format has tried; ``None`` where a package of it is not installed."""
    opened: list[FormatProbes] = []

    def look() -> str:
        module = room_part(settings.format, "probes")
        opened.append(module.open_probes(settings, probes, joined=_session_runs()))
        return settings.format

    probes.take("table format", look, remedy="See the packages above.")
    return opened[0] if opened else None


def _session_runs() -> bool:
    """Whether this process has a Spark session; nothing is imported to find out."""
    module = sys.modules.get("pyspark.sql")
    return module is not None and module.SparkSession.getActiveSession() is not None


def _store(room: FormatProbes, probes: Probes) -> list[str]:
    from dedup_storage.doctor.store import take_store

    # Where the catalog hands out keys, tables do without the settings' own; what lists folders does not.
    failing = State.WARNING if room.hands_out_keys else State.MISSING
    return take_store(room.place(), room.settings.catalog.properties, probes, failing=failing)


def _engine(
    settings: Settings,
    room: FormatProbes | None,
    probes: Probes,
    start: Callable[[Settings], AbstractContextManager[SparkSession]],
    step: Callable[[str], AbstractContextManager[object]],
) -> None:
    needs = () if _session_runs() else (JAVA, PACKAGES)
    with ExitStack() as stack:
        started: list[SparkSession] = []

        def look() -> str:
            started.append(stack.enter_context(start(settings if room is None else room.settings)))
            return started[0].version

        if not probes.take(SPARK, look, remedy=_START_REMEDY, needs=needs) or room is None:
            return
        from dedup_storage.doctor.session import take_joins, take_session

        with step("Probing with Spark"):
            if take_session(started[0], settings, probes):
                room.engine(started[0])
                take_joins(started[0], room.bucketed, probes)


def _cleaned(left: list[str]) -> Finding | str:
    if not left:
        return "everything that was made is gone"
    return Finding(f"could not be removed: {', '.join(left)}", State.WARNING, "Remove it by hand.")
