"""What a backfill's result must be before it is published."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.backfill.affected import AffectedRows
from dedup_storage.dataset.lists import with_lists
from dedup_storage.errors import InputError, QualityGateError
from dedup_storage.lake.branch import Branch
from dedup_storage.lake.engine.sessions import move_to
from dedup_storage.lake.protocol import Run
from dedup_storage.layout import TableRole
from dedup_storage.spark.rows import only_row

__all__ = ["audit_rows", "audit_segments"]


def audit_rows(rows: AffectedRows, branch: Branch) -> None:
    """A backfill changes values; rows neither come nor go. The table's own counts say so.

    Args:
        rows: What the run rewrote.
        branch: Where it did.

    Raises:
        InputError: the function or the rows bring a key several times.
    """
    before, after = rows.cut.meta.totals(rows.target.table, rows.target.snapshot_id).rows, branch.count()
    if before != after:
        raise InputError(
            f"the new values of {', '.join(rows.change.names)} would change the number of rows",
            expected=f"{before} rows in {rows.target.table}",
            got=str(after),
            fix=f"Give each key ({', '.join(rows.target.keys)}) once.",
        )


def audit_segments(rows: AffectedRows, branch: Branch, run: Run) -> str | None:
    """The quality gate on the rewritten segments; where its verdict lies, ``None`` for a feature group.

    Raises:
        QualityGateError: they break a rule.
    """
    from dedup_storage.quality import GateFacts, require, run_gate

    spec, table = rows.spec, rows.target.table
    inside = F.expr(rows.tables.inside(spec, (run.segments or {})[table]))
    changed = move_to(rows.session, branch.rows())

    def judged(name: str) -> DataFrame:
        frame = changed if name == table else rows.table(name)
        if name == spec.anchor.name:
            frame = with_lists(spec, frame.filter(inside), {g.name: rows.table(g.table) for g in spec.events})
        return frame.filter(inside).drop(*rows.tables.hidden(spec))

    if rows.cut.meta.role(table) not in {t.role.value for t in spec.tables}:
        _audit_group(rows, judged(table))
        return None
    frames = {t.name: judged(t.name) for t in spec.tables if t.role is not TableRole.EVENTS}
    split = spec.layout.divided
    verdict = run_gate(
        spec=spec,
        settings=rows.handle.settings,
        run_id=run.run_id,
        # In flat layout a request's column may have been changed in some of its rows only.
        facts=GateFacts(inconstant_requests=0 if split else None),
        requests=frames[TableRole.REQUESTS.value] if split else None,
        impressions=frames[TableRole.IMPRESSIONS.value] if split else None,
        logs=None if split else frames[TableRole.LOGS.value],
    )
    require(verdict)
    return verdict.docs


def _audit_group(rows: AffectedRows, rewritten: DataFrame) -> None:
    """Feature groups' own rule: no nulls where a definition says so."""
    for group in rows.changed_groups():
        wanted = [c.name for c in group.columns if c.not_null and c.name in rows.change.names]
        if not wanted:
            continue
        counts = only_row(rewritten.agg(*(F.count_if(F.col(c).isNull()).alias(c) for c in wanted)))
        nulls = {c: int(counts[c]) for c in wanted if counts[c]}
        if nulls:
            places = ", ".join(f"{count} in {column}" for column, count in nulls.items())
            raise QualityGateError(
                f"the feature group {group.name} would get nulls: {places}",
                expected="none in columns declared not null",
                fix="Nothing was published.",
            )
