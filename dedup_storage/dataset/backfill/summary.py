"""What a backfill reports."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Asked", "BackfillSummary", "Comparison"]


class Comparison(BaseModel):
    """One quantity, planned and measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantity: str
    planned: int
    actual: int


class Asked(BaseModel):
    """What was asked for by its key.

    Attributes:
        users, users_not_found: Users that were given, and those that the dataset does not have.
        replacement_rows, replacement_rows_not_found: Replacement rows, and those whose key the table does not have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: int | None = None
    users_not_found: int | None = None
    replacement_rows: int | None = None
    replacement_rows_not_found: int | None = None

    def asked(self) -> dict[str, int | None]:
        """Its fields."""
        return {name: getattr(self, name) for name in Asked.model_fields}


class BackfillSummary(Asked):
    """What a backfill did.

    Attributes:
        dataset, run_id: Which.
        version: The version that holds the result; the current one when nothing was to do.
        already_published: The run id was published before; nothing was done now.
        table, columns: What was rewritten.
        base: The version it started from.
        resumed_segments: Segments that an earlier attempt of the run had finished.
        strategies: Strategy -> number of segments.
        planned_and_actual: Rows, files, bytes, and where the file system counts them bytes read, planned from whole
            files and less when columns were left out. Rows whose new value equals the old one are planned and not
            written by merge-on-read.
        sequence_bytes_written: Bytes written to tables with sequence columns.
        gate: ``passed``, ``off``, or ``not needed`` when nothing was published.
        docs: Where the gate's verdict and Data Docs lie.
        seconds: Wall time by step.
        hints: Advice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    run_id: str
    version: int
    already_published: bool = False
    table: str = ""
    columns: tuple[str, ...] = ()
    base: int = 0
    resumed_segments: int = 0
    strategies: dict[str, int] = {}
    planned_and_actual: tuple[Comparison, ...] = ()
    sequence_bytes_written: int = 0
    gate: str = "off"
    docs: str | None = None
    seconds: dict[str, float] = {}
    hints: tuple[str, ...] = ()
