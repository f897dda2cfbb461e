"""What a change of the number of buckets reports."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["RebucketSummary", "TableMoved"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableMoved(_Frozen):
    """One table of the version.

    Attributes:
        table: Its name.
        rows: Rows, the same before and after.
        files, bytes: Data files and their bytes, as the table has them from now on; before, by a dry run.
    """

    table: str
    rows: int
    files: int
    bytes: int


class RebucketSummary(_Frozen):
    """What was done.

    Attributes:
        dataset, run_id: Which.
        version: The version from which on the dataset has the buckets; by a dry run the one that would be rewritten.
        before, buckets: User buckets until then, and from then on.
        dry_run: Nothing was done: what would be.
        already_published: The run was done before; nothing was done.
        unchanged: The dataset had this number of buckets; nothing was done.
        tables: Every table of the version.
        kept_versions: Kept versions of the former number, which stay readable.
        hints: What changes for those who use the dataset.
        seconds: Wall time by step.
    """

    dataset: str
    run_id: str
    version: int
    before: int
    buckets: int
    dry_run: bool = False
    already_published: bool = False
    unchanged: bool = False
    tables: tuple[TableMoved, ...] = ()
    kept_versions: tuple[int, ...] = ()
    hints: tuple[str, ...] = ()
    seconds: dict[str, float] = {}
