"""What a configuration can do, found by trying it: one form for every result, one way to take it. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, ConfigDict

from dedup_storage.config import Settings
from dedup_storage.errors import DedupStorageError
from dedup_storage.secrets import hidden

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = [
    "CONDITIONAL_PUT",
    "ROWS",
    "SCRATCH_PREFIX",
    "STORE_WRITE",
    "Finding",
    "FormatProbes",
    "Jar",
    "NewFolders",
    "Probe",
    "Probes",
    "State",
    "without_scratch",
]

# What probes make begins with this, so that it is known for what it is whatever becomes of the process.
SCRATCH_PREFIX = "dedup_storage_doctor_"
# The probe that everything else in a store rests on.
STORE_WRITE = "store: write"
CONDITIONAL_PUT = "store: conditional put"
# Rows of the tables that probes write.
ROWS = 64
_MOST = 300
_NOT_TRIED = "not tried: it needs "


class State(StrEnum):
    """How a probe ended: ``missing`` is what has to be there and is not."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"
    NOT_NEEDED = "not-needed"


class Probe(BaseModel):
    """What one probe found.

    Attributes:
        name: What was tried.
        state: How it ended.
        found: What was found, as one sentence or a part of one; no secret of the settings is in it.
        remedy: What to do; ``None`` where there is nothing to do.
        seconds: How long it took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    state: State
    found: str
    remedy: str | None = None
    seconds: float

    @property
    def tried(self) -> bool:
        """Whether it was tried; it is not where something that it needs is missing."""
        return not self.found.startswith(_NOT_TRIED)


@dataclass(frozen=True)
class Finding:
    """What a probe's function says.

    Attributes:
        found: What was found.
        state, remedy: As of a ``Probe``.
    """

    found: str
    state: State = State.OK
    remedy: str | None = None


@dataclass(frozen=True)
class Jar:
    """A jar that Spark needs; a room's ``probes.jars_needed(settings)`` gives them.

    Attributes:
        coordinate: ``group:artifact:version``, as it was tried.
        marker: A class of it.
        purpose: What it is for.
    """

    coordinate: str
    marker: str
    purpose: str

    @property
    def artifact(self) -> str:
        """``group:artifact``."""
        return self.coordinate.rpartition(":")[0]


class FormatProbes(Protocol):
    """What a table format's room has tried: ``probes.open_probes(settings, probes, joined=…)`` gives it.

    Attributes:
        settings: What a session has to be started with: those of the configuration, or the same with a warehouse that
            is removed afterwards, where nothing may be left of a warehouse that was not there before.
        hands_out_keys: The catalog gives keys of the store with each table, which does without the settings' own.
        bucketed: A table of ``ROWS`` rows in buckets that the probes with Spark left until ``close``, with its catalog.
    """

    settings: Settings
    hands_out_keys: bool
    bucketed: str | None

    def place(self) -> str | None:
        """The folder below which tables lie; ``None`` where only the catalog knows, and it did not say so far."""

    def catalog(self) -> None:
        """Take the probes that need no Spark."""

    def engine(self, spark: SparkSession) -> None:
        """Take those that need it."""

    def close(self) -> list[str]:
        """Remove whatever was made; gives what could not be removed."""


@dataclass
class Probes:
    """Takes one probe after the other; a probe that fails is a result, and the next one is taken.

    Attributes:
        secrets: Texts that no result may show.
        taken: The results so far, by name.
    """

    secrets: set[str] = field(default_factory=set)
    taken: dict[str, Probe] = field(default_factory=dict)

    def take(
        self,
        name: str,
        look: Callable[[], Finding | str],
        *,
        remedy: str | None = None,
        needs: Iterable[str] = (),
        failing: State = State.MISSING,
    ) -> bool:
        """Take one probe; gives whether what it tried works.

        Args:
            name: What is tried.
            look: Tries it and says what was found; whatever it raises is told as ``failing``.
            remedy: What to do when it raises something that does not say so itself.
            needs: Probes without which this one cannot be taken.
            failing: How it counts when it raises.
        """
        began = time.monotonic()
        lacking = [need for need in needs if not self.works(need)]
        if lacking:
            finding = Finding(f"{_NOT_TRIED}{', '.join(lacking)}", State.MISSING)
        else:
            try:
                said = look()
                finding = said if isinstance(said, Finding) else Finding(said)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is what a probe is there to tell
                finding = replace(_failure(error, remedy), state=failing)
        self.taken[name] = Probe(
            name=name,
            state=finding.state,
            found=self._shown(finding.found),
            remedy=None if finding.remedy is None else self._shown(finding.remedy),
            seconds=round(time.monotonic() - began, 3),
        )
        return self.works(name)

    def works(self, name: str) -> bool:
        """Whether a probe was taken and nothing was missing."""
        found = self.taken.get(name)
        return found is not None and found.state is not State.MISSING

    def _shown(self, text: str) -> str:
        return hidden(text, self.secrets)


def _failure(error: Exception, remedy: str | None) -> Finding:
    if isinstance(error, DedupStorageError):
        parts = [error.what.rstrip(".")]
        parts += [] if error.expected is None else [f"expected {error.expected}"]
        parts += [] if error.got is None else [f"got {error.got}"]
        return Finding("; ".join(parts), State.MISSING, error.fix or remedy)
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "a dependency").partition(".")[0]
        return Finding(f"the package {package} is not installed", State.MISSING, "See the packages above.")
    lines = str(error).strip().splitlines()
    told = f"{type(error).__name__}: {lines[0][:_MOST]}" if lines else type(error).__name__
    return Finding(told, State.MISSING, remedy)


def without_scratch(place: str) -> str:
    """A place as far as it is not made for probes."""
    return place.partition(f"/{SCRATCH_PREFIX}")[0]


class NewFolders:
    """The folders of a local path that are not there yet, so that they can go again while nothing is in them.

    Args:
        path: The path; ``None`` stands for a place on another machine.
    """

    def __init__(self, path: Path | None) -> None:
        self._missing = [] if path is None else [p for p in (path, *path.parents) if not p.exists()]

    def remove(self) -> None:
        """Remove those of them that are empty."""
        for folder in self._missing:
            try:
                folder.rmdir()
            except OSError:
                # It was never made, or somebody has put something there.
                return
