"""The run of a write: what it replaces, which tables it changes, what its version remembers."""

from __future__ import annotations

from dedup_storage.dataset.write.collapse import InputStats
from dedup_storage.dataset.write.columns import Fitted
from dedup_storage.dataset.write.policies import Mode
from dedup_storage.dataset.write.segments import segment_ranges
from dedup_storage.errors import UsageError
from dedup_storage.lake.protocol import Run
from dedup_storage.lake.requests import Request
from dedup_storage.lake.runs import new_attempt
from dedup_storage.layout import TableRole

__all__ = ["write_run"]

_MOST_DATES = 400


def write_run(log: Fitted, mode: Mode, run_id: str, base: int, stats: InputStats, request: Request | None) -> Run:
    """The first attempt of a write.

    Args:
        log: The log, and the dataset as it leaves it.
        mode: Append or replace.
        run_id: The run.
        base: The version that it starts from.
        stats: What was found in the log.
        request: What the run is asked to do.

    Raises:
        UsageError: event dates are to be replaced where there are none, or no segments.
    """
    spec, dates, replaced = log.spec, stats.dates, None
    if mode is Mode.REPLACE:
        if spec.adopted:
            raise UsageError(
                f"event dates of {spec.name} cannot be replaced: its log lies as it was adopted",
                fix="Convert it: dedup-storage convert.",
            )
        if spec.event_date_column is None:
            raise UsageError(
                "event dates cannot be replaced in a dataset without event time",
                fix="Name event_time in the schema, or append.",
            )
        replaced = segment_ranges(dates, spec.date_grain)
    # Users' lists only grow: what an event's place is stays so, whatever refers to it.
    kept = {table.name for table in spec.tables if table.role is TableRole.EVENTS}
    names = tuple(table.name for table in spec.tables)
    return Run(
        run_id=run_id,
        job="write",
        attempt=new_attempt(run_id),
        base=base,
        replaced=replaced,
        replaced_tables=tuple(name for name in names if name not in kept) if kept else None,
        tables=names,
        dates=dates if len(dates) <= _MOST_DATES else None,
        described=spec if log.added else None,
        facts={
            "mode": mode.value,
            "input-rows": str(stats.rows),
            **log.facts,
            **({} if request is None else request.facts),
        },
    )
