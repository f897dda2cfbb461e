"""The quality gate over what a run staged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.lake.protocol import Run, Staged, TableFormat
from dedup_storage.layout import DatasetSpec

__all__ = ["audit_staged", "staged_rows"]


def audit_staged(
    tables: TableFormat, settings: Settings, spec: DatasetSpec, run: Run, staged: Sequence[Staged], facts: Any
) -> str:
    """Check the staged rows; gives the place of the Data Docs.

    Args:
        tables, settings, spec, run: Whose rows.
        staged: What the run staged.
        facts: ``dedup_storage.quality.GateFacts``.

    Raises:
        QualityGateError: the gate refused.
    """
    from dedup_storage.quality import require, run_gate

    frames = {s.table: staged_rows(tables, spec, s, run) for s in staged}
    verdict = run_gate(
        spec=spec,
        settings=settings,
        run_id=run.run_id,
        facts=facts,
        requests=frames.get("requests"),
        impressions=frames.get("impressions"),
        logs=frames.get("logs"),
    )
    require(verdict)
    return verdict.docs


def staged_rows(tables: TableFormat, spec: DatasetSpec, staged: Staged, run: Run) -> DataFrame:
    """The rows a run staged, alone."""
    rows = tables.staged_rows(spec, staged, run)
    if run.replaced is None:
        return rows
    dates = [F.lit(d).cast("date") for d in run.dates or ()]
    return rows.filter(F.col(str(spec.event_date_column)).isin(*dates)) if dates else rows
