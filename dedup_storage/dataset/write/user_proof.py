"""Layout ``user``: the proof that what was staged is what was laid.

Laying makes each batch's lists again of what it hands on and compares them with the log's, value for value
(``windows.proof``). So the lists come back from storage if the rows do: those of the log's requests and its new events,
by count and digest. Nothing that was stored before is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.write.audit import staged_rows
from dedup_storage.dataset.write.user_lists import Laid, row_digest, row_facts, tasks_for
from dedup_storage.errors import StorageError
from dedup_storage.lake.engine.sessions import move_to
from dedup_storage.lake.protocol import Run, Staged
from dedup_storage.spark.rows import only_row
from dedup_storage.words import counted

__all__ = ["require_as_laid"]

_TABLE, _DIGEST = "_dedup_table", "_dedup_digest"


def require_as_laid(handle: Handle, laid: Laid, run: Run, staged: Sequence[Staged], dates: Sequence[str]) -> None:
    """Refuse to publish request rows or events that are not, once each, those that were laid.

    Args:
        handle: The dataset.
        laid: What was laid, and staged since.
        run: The attempt.
        staged: What it staged.
        dates: Event dates of the log (ISO).

    Raises:
        StorageError: rows differ.
    """
    found = {s.table: s for s in staged if s.table in laid.seen}
    digests = []
    for table, one in found.items():
        own = table == handle.spec.anchor.name
        rows = staged_rows(handle, one, run, dates) if own else handle.tables.staged_rows(handle.spec, one, run)
        digests.append(_digests(laid, table, rows))
    where = F.col(_TABLE)
    facts = [F.count_if(where == table).alias(f"rows {table}") for table in found]
    facts += [F.sum(F.when(where == table, F.col(_DIGEST))).alias(f"sum {table}") for table in found]
    rows = reduce(DataFrame.unionByName, digests)
    # Each segment would be a task; a log of many days has many, and little in each.
    tasks = tasks_for(sum(one.bytes for one in found.values()))
    stored = only_row(rows.coalesce(tasks).agg(*facts))
    for table in found:
        handed = laid.seen[table].get
        before = (int(handed.get("rows") or 0), handed.get("sum"))
        after = (int(stored[f"rows {table}"]), stored[f"sum {table}"])
        if before != after:
            # A stage that ran twice was counted twice: what is kept decides.
            again = only_row(laid.rows[table].agg(*row_facts(laid.spec, laid.rows[table])))
            before = (int(again["rows"]), again["sum"])
        if before != after:
            raise StorageError(
                f"the rows that were staged in {handle.spec.name}.{table} are not those that were to be",
                expected=f"{counted(before[0], 'row')}, digest {before[1]}",
                got=f"{counted(after[0], 'row')}, digest {after[1]}",
                fix="Nothing was published. Please report it.",
            )


def _digests(laid: Laid, table: str, rows: DataFrame) -> DataFrame:
    """Digests of staged rows, in the types and in the session in which those of the laid ones were made."""
    asked = laid.rows[table].schema.fields
    rows = move_to(laid.frame.sparkSession, rows)
    rows = rows.select(*(F.col(f.name).cast(f.dataType).alias(f.name) for f in asked))
    return rows.select(F.lit(table).alias(_TABLE), row_digest(laid.spec, rows).alias(_DIGEST))
