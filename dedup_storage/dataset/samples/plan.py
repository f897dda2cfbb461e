"""How many bytes reading a sample opens, from the metadata alone."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict

from dedup_storage.dataset.handle import Handle
from dedup_storage.layout import TableRole
from dedup_storage.sampling.definition import Sample

__all__ = ["SamplePlan", "TablePlan", "plan_sample"]

# What neither a reader nor a frame of a sample opens.
_NEVER_READ = (TableRole.LABELS, TableRole.QUARANTINE)
_WHOLE = (
    "No file is left out: users are chosen by a hash of their own, so each bucket and each file holds some of them. "
    "A sample of whole buckets (buckets=k), one with event dates, or one of so few users that buckets are empty "
    "leaves files out; or materialise this one."
)


class TablePlan(BaseModel):
    """Files of one table: those a sample opens, and all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    files: int
    all_files: int
    bytes: int
    all_bytes: int


class SamplePlan(BaseModel):
    """What a sample opens.

    Attributes:
        dataset, sample, version: Which.
        tables: By table; whole files, so that reading a few columns takes less.
        bytes: Of all tables together.
        all_bytes: Without the sample.
        share: bytes / all_bytes.
        pruned_by: What leaves files out.
        note: Why nothing does, where nothing does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    sample: str
    version: int
    tables: tuple[TablePlan, ...]
    bytes: int
    all_bytes: int
    share: float
    pruned_by: tuple[str, ...]
    note: str = ""


def plan_sample(handle: Handle, sample: Sample, version: int | None) -> SamplePlan:
    """Sizes from manifests alone; nothing is read."""
    cut = handle.cut(version)
    dates = (sample.spec.start, sample.spec.end)
    chosen = sample.buckets_among(cut.spec.buckets)
    tables = []
    for name, snapshot in cut.snapshots.items():
        if cut.meta.role(name) in _NEVER_READ:
            continue
        share = cut.meta.share_of_files(name, snapshot, dates, chosen)
        tables.append(TablePlan(table=name, **asdict(share)))
    total, everything = sum(t.bytes for t in tables), sum(t.all_bytes for t in tables)
    by = ["buckets"] if chosen else []
    by += ["event dates"] if cut.spec.event_date_column is not None and dates != (None, None) else []
    return SamplePlan(
        dataset=handle.name,
        sample=sample.name,
        version=cut.version,
        tables=tuple(tables),
        bytes=total,
        all_bytes=everything,
        share=round(total / everything, 6) if everything else 0.0,
        pruned_by=tuple(by),
        note="" if by else _WHOLE,
    )
