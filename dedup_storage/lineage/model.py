"""What there is to tell of a run: what it read, what it made, and from which columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Account", "ColumnUse", "Place", "Product", "Source", "State", "Verb"]


class State(StrEnum):
    """What happened to a run, as OpenLineage names it."""

    START = "START"
    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    FAIL = "FAIL"
    ABORT = "ABORT"


@dataclass(frozen=True)
class Place:
    """Where data lies, as OpenLineage names it.

    Attributes:
        namespace: The store or catalog, such as ``s3://bucket`` or ``file``.
        name: The path or the table in it.
    """

    namespace: str
    name: str


@dataclass(frozen=True)
class Source:
    """Something that was read.

    Attributes:
        place: Where it lies.
        version: Which version of it, where it has some.
        symlink: Its name in the catalog, where it has one beside the place.
    """

    place: Place
    version: str | None = None
    symlink: Place | None = None


@dataclass(frozen=True)
class ColumnUse:
    """One column that another one is computed from.

    Attributes:
        place: The table of the column.
        column: Its name.
        direct: Whether values are made of its values; else they only depend on it, as on a join's key.
        subtype: ``IDENTITY``, ``TRANSFORMATION`` or ``JOIN``.
    """

    place: Place
    column: str
    direct: bool
    subtype: str


@dataclass(frozen=True)
class Product:
    """A table that a run changed.

    Attributes:
        source: Where it lies, and the version that the run published.
        types: Column -> Spark DDL type, empty where it is not known.
        rows, bytes: What was added; ``None`` where that says nothing.
        uses: Column -> the columns that it is computed from, where that is known.
        dropped: No version has the table from this one on.
    """

    source: Source
    types: Mapping[str, str] = field(default_factory=dict)
    rows: int | None = None
    bytes: int | None = None
    uses: Mapping[str, tuple[ColumnUse, ...]] = field(default_factory=dict)
    dropped: bool = False


@dataclass(frozen=True)
class Account:
    """What a run that ended well did.

    Attributes:
        run_id: The run's name.
        version: The version that it published; ``None`` for none.
        read: The version that it began from or computed from; ``None`` where it read no version.
        sources, products: What it read and what it changed.
        already: It was done before, and nothing was done now.
    """

    run_id: str | None = None
    version: int | None = None
    read: int | None = None
    sources: tuple[Source, ...] = ()
    products: tuple[Product, ...] = ()
    already: bool = False


@dataclass(frozen=True)
class Verb:
    """What a user asked a dataset for, as it is known before it is done.

    Attributes:
        dataset: The dataset.
        job: ``write``, ``backfill``, ``add-features``, ….
        run_id: The run's name; ``None`` for one that nobody can give again.
        subject: The feature group or sample that it is about.
        sources: What it is going to read, as far as that is known.
    """

    dataset: str
    job: str
    run_id: str | None = None
    subject: str | None = None
    sources: tuple[Source, ...] = ()

    @property
    def name(self) -> str:
        """The job's name in its namespace: each dataset, and each group of it, is a job of its own."""
        return ".".join(part for part in (self.dataset, self.job, self.subject) if part)
