"""The quality gate over what a run staged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Handle
from dedup_storage.lake.protocol import Run, Staged
from dedup_storage.layout import TableRole

if TYPE_CHECKING:
    from dedup_storage.quality import GateFacts, Verdict

__all__ = ["audit_staged", "of_dates", "staged_rows"]

# More dates than that are joined; fewer are a filter, by which files are left out.
_MOST_FILTERED = 400


def audit_staged(
    handle: Handle,
    run: Run,
    staged: Sequence[Staged],
    facts: GateFacts,
    dates: Sequence[str],
    requests: DataFrame | None = None,
) -> Verdict:
    """Check the staged rows; gives the verdict, which is passed.

    Args:
        handle: The dataset.
        run: The attempt.
        staged: What it staged.
        facts: What the run counted.
        dates: Event dates of the log (ISO).
        requests: The log's request rows with what rules read of their lists, where these are not stored as they are;
            they are proved to be those that were staged.

    Raises:
        QualityGateError: the gate refused.
    """
    from dedup_storage.quality import require, run_gate

    names = [table.name for table in handle.spec.tables if table.role is not TableRole.EVENTS]
    frames = {s.table: staged_rows(handle, s, run, dates) for s in staged if s.table in names}
    if requests is not None:
        frames[handle.spec.anchor.name] = requests
    verdict = run_gate(
        spec=handle.spec,
        settings=handle.settings,
        run_id=run.run_id,
        facts=facts,
        requests=frames.get("requests"),
        impressions=frames.get("impressions"),
        logs=frames.get("logs"),
        derived=requests is not None,
    )
    require(verdict)
    return verdict


def staged_rows(handle: Handle, staged: Staged, run: Run, dates: Sequence[str]) -> DataFrame:
    """The rows of a log that a run staged, without those of other dates that share a replaced segment."""
    rows = handle.tables.staged_rows(handle.spec, staged, run)
    if not run.replaces(staged.table):
        return rows
    return of_dates(rows, str(handle.spec.event_date_column), dates, "left_semi")


def of_dates(rows: DataFrame, column: str, dates: Sequence[str], how: Literal["left_semi", "left_anti"]) -> DataFrame:
    """Rows of some dates (ISO), or of all others (``left_anti``)."""
    if len(dates) <= _MOST_FILTERED:
        among = F.col(column).isin(*(F.lit(d).cast("date") for d in dates))
        return rows.filter(among if how == "left_semi" else F.coalesce(~among, F.lit(True)))
    listed = rows.sparkSession.createDataFrame([(d,) for d in dates], "d string")
    return rows.join(F.broadcast(listed.select(F.col("d").cast("date").alias(column))), [column], how)
