"""The quality gate over what a run staged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Handle
from dedup_storage.lake.protocol import Run, Staged

if TYPE_CHECKING:
    from dedup_storage.quality import GateFacts, Verdict

__all__ = ["audit_staged", "staged_rows"]


def audit_staged(handle: Handle, run: Run, staged: Sequence[Staged], facts: GateFacts) -> Verdict:
    """Check the staged rows; gives the verdict, which is passed.

    Args:
        handle: The dataset.
        run: The attempt.
        staged: What it staged.
        facts: What the run counted.

    Raises:
        QualityGateError: the gate refused.
    """
    from dedup_storage.quality import require, run_gate

    frames = {s.table: staged_rows(handle, s, run) for s in staged}
    verdict = run_gate(
        spec=handle.spec,
        settings=handle.settings,
        run_id=run.run_id,
        facts=facts,
        requests=frames.get("requests"),
        impressions=frames.get("impressions"),
        logs=frames.get("logs"),
    )
    require(verdict)
    return verdict


def staged_rows(handle: Handle, staged: Staged, run: Run) -> DataFrame:
    """The rows a run staged, alone."""
    rows = handle.tables.staged_rows(handle.spec, staged, run)
    if run.replaced is None:
        return rows
    dates = [F.lit(d).cast("date") for d in run.dates or ()]
    return rows.filter(F.col(str(handle.spec.event_date_column)).isin(*dates)) if dates else rows
