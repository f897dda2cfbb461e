"""What a write reports."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from dedup_storage.layout import SMALL_SEGMENT_BYTES, DatasetSpec, Layout

__all__ = ["TableSummary", "WriteSummary", "layout_hint", "small_segment_hint"]


_MOST_SHOWN = 4


class TableSummary(BaseModel):
    """What a run added to one table: rows, stored bytes, data files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    rows: int
    bytes: int
    files: int


class WriteSummary(BaseModel):
    """What a write did.

    Attributes:
        dataset, run_id: Which.
        version: The version that holds the run's rows; of a dry run, the newest.
        dry_run: Nothing was done: what would be.
        already_published: The run id was published before; nothing was done now.
        mode: ``append`` or ``replace``.
        input_rows: Impressions in the input.
        requests, impressions: Rows written.
        dedup_factor: impressions / requests.
        dates: Event dates touched.
        input_bytes: Stored bytes of the input as Spark's planner knows them.
        tables: What was added to each table.
        inconstant_requests: Requests whose request-grain columns differed between rows.
        quarantined_rows: Impressions set aside.
        dropped_duplicates: Impressions left out because their key was there already.
        gate: ``passed`` or ``off``.
        docs: Where the gate's verdict and Data Docs lie.
        seconds: Wall time by step.
        date_grain, buckets: The dataset's segments.
        epoch_grain: Layout ``user``: by what its events are partitioned beside buckets.
        added_columns: Columns that the dataset has from this version on.
        filled_columns: Columns that the log does not have, null in its rows.
        notes: What was done with the log's columns on reading.
        hints: Advice, such as segments too small to be worth their files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    run_id: str
    version: int
    already_published: bool = False
    dry_run: bool = False
    mode: str = "append"
    input_rows: int = 0
    requests: int = 0
    impressions: int = 0
    dedup_factor: float | None = None
    dates: tuple[str, ...] = ()
    input_bytes: int = 0
    tables: tuple[TableSummary, ...] = ()
    inconstant_requests: int = 0
    quarantined_rows: int = 0
    dropped_duplicates: int = 0
    gate: str = "off"
    docs: str | None = None
    seconds: dict[str, float] = {}
    date_grain: str | None = None
    buckets: int | None = None
    epoch_grain: str | None = None
    added_columns: tuple[str, ...] = ()
    filled_columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    def shown(self) -> dict[str, object]:
        """The summary for people: many dates are a range and a number; nothing was counted of what is there already."""
        if self.already_published:
            return {"dataset": self.dataset, "run_id": self.run_id, "version": self.version, "already_published": True}
        # A dry run counts neither these nor what the gate would say, and has no version.
        untold = {"already_published", "dry_run"}
        if self.dry_run:
            untold |= {"version", "inconstant_requests", "quarantined_rows", "gate", "seconds"}
        told: dict[str, object] = {n: value for n, value in self.model_dump(mode="json").items() if n not in untold}
        if len(self.dates) > _MOST_SHOWN:
            told["dates"] = (f"{self.dates[0]} to {self.dates[-1]}, {len(self.dates)} dates",)
        return told


def layout_hint(spec: DatasetSpec) -> tuple[str, ...]:
    """Advice when layout ``user`` stores what split layout would."""
    if spec.layout is not Layout.USER or spec.events:
        return ()
    return ("no history list goes on from request to request, so layout user stores them as layout split does",)


def small_segment_hint(tables: tuple[TableSummary, ...]) -> tuple[str, ...]:
    """Advice when the files that a write left are too small to be worth opening."""
    most = max(tables, key=lambda t: t.bytes, default=None)
    if most is None or most.files < 32 or most.bytes / most.files >= SMALL_SEGMENT_BYTES / 16:
        return ()
    mean = most.bytes / most.files / 1024
    return (
        f"{most.table} got {most.files} files of {mean:.0f} KiB on average; fewer buckets or a coarser date grain "
        "compress better and read faster",
    )
