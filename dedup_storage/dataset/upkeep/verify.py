"""Looks again, on the files of every kept version, whether users of an erasure's receipt are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict
from pyspark.sql import DataFrame

from dedup_storage.dataset.handle import Handle
from dedup_storage.dataset.upkeep.forget_summary import ForgetSummary
from dedup_storage.dataset.upkeep.receipt import Receipt, read_receipt, require_users
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.upkeep import Remains
from dedup_storage.layout import TableRole
from dedup_storage.sources.named import typed_users
from dedup_storage.spark.errors import translated
from dedup_storage.words import counted

__all__ = ["LEFT_BY_RUNS", "ErasureProof", "TableProof", "listed_users", "look_again", "verify_erasure"]

LEFT_BY_RUNS = "Files that no version names were left by killed runs: maintain removes them after their safe age."
_AGAIN = "Erase them again, under a new run id."


class TableProof(BaseModel):
    """One table with the user column.

    Attributes:
        files: Parquet files looked into: those that kept versions name, and whatever else lies in the table's folder.
        rows: Rows of the users in them, rows that deletion vectors hide included.
        versions: Kept versions that name files with such rows.
        unnamed_rows: Those of the rows that lie in files which no version names.
        unreadable_files: Files that are no whole Parquet file.
        bounds: Entries of manifests (Iceberg) or of the log (Delta) that have one of the users as a bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    files: int
    rows: int
    versions: tuple[int, ...] = ()
    unnamed_rows: int = 0
    unreadable_files: int = 0
    bounds: int = 0


class ErasureProof(BaseModel):
    """What was found of a receipt's users.

    Attributes:
        dataset, run_id: Which erasure.
        erased_at, receipt: When it was done, and the digest of its receipt.
        users: Ids looked for.
        erased_version: The current version when the erasure was done.
        versions: Kept versions, all of whose files were looked into.
        clean: Whether none of the users is there.
        finding: What was found, in a sentence; ``None`` where nothing was.
        remedy: What to do about it.
        tables: One entry for each table with the user column.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    run_id: str
    erased_at: str
    receipt: str
    users: int
    erased_version: int
    versions: tuple[int, ...]
    clean: bool
    finding: str | None
    remedy: str | None = None
    tables: tuple[TableProof, ...]


def verify_erasure(handle: Handle, receipt: Receipt, users: Sequence[int | str] | DataFrame) -> ErasureProof:
    """Check a receipt, and look again whether its users are in any file of the dataset. Changes nothing.

    Args:
        handle: The dataset.
        receipt: As ``forget_users`` returned it, its JSON as a mapping, or the place of the JSON file.
        users: The ids that were erased, as they were given then.

    Raises:
        InputError: the receipt cannot be read, is none, or was changed.
        UsageError: it is the receipt of another dataset, or of other users.
    """
    with translated():
        meta = handle.metadata()
        found = read_receipt(receipt, meta)
        given = listed_users(handle, meta, users).persist()
        try:
            require_users(found, given, given.count())
            return look_again(handle, found, given)
        finally:
            given.unpersist()


def listed_users(handle: Handle, meta: DatasetMetadata, users: Sequence[int | str] | DataFrame) -> DataFrame:
    """Ids, distinct, in the type that the anchor has, where every user of the newest version is."""
    meta.resolve(None)
    user, anchor = handle.schema.user, handle.spec.anchor.name
    stored = handle.tables.read(handle.name, anchor, meta.snapshots(meta.current)[anchor])
    return typed_users(handle.spark, users, user, stored.schema[user].dataType)


def look_again(handle: Handle, receipt: ForgetSummary, users: DataFrame) -> ErasureProof:
    """Look for the users of a receipt that was checked."""
    remains = dict(sorted(handle.tables.erasure(handle.spec, users, receipt.run_id).remains().items()))
    meta = handle.metadata()
    tables = (
        TableProof(
            table=name,
            files=left.files,
            rows=left.rows,
            versions=tuple(left.versions),
            unnamed_rows=left.unnamed,
            unreadable_files=left.unreadable,
            bounds=left.bounds,
        )
        for name, left in remains.items()
    )
    finding, remedy = _finding(meta, receipt, remains) or (None, None)
    return ErasureProof(
        dataset=handle.name,
        run_id=receipt.run_id,
        erased_at=str(receipt.erased_at),
        receipt=str(receipt.digest),
        users=receipt.users,
        erased_version=receipt.version,
        versions=tuple(meta.version_numbers),
        clean=finding is None,
        finding=finding,
        remedy=remedy,
        tables=tuple(tables),
    )


def _finding(meta: DatasetMetadata, receipt: ForgetSummary, remains: Mapping[str, Remains]) -> tuple[str, str] | None:
    """The worst that was found, in a sentence without an id, and what to do about it."""
    rows: dict[int, int] = {}
    for left in remains.values():
        for version, count in left.versions.items():
            rows[version] = rows.get(version, 0) + count
    tables = ", ".join(name for name, left in remains.items() if left.rows)
    covered = [version for version in rows if version <= receipt.version]
    if covered:
        count = rows[min(covered)]
        what = f"version {min(covered)}, which was erased from, has {counted(count, 'row')} of the users, in {tables}"
        return what, _AGAIN
    if rows:
        info = meta.info(min(rows))
        what = (
            f"{counted(rows[info.version], 'row')} of the users came back with version {info.version}, by a later "
            f"{info.job} (run {info.run_id}), in {tables}"
        )
        return what, _AGAIN
    sampled = [n for n, left in remains.items() if left.rows and meta.role(n) == TableRole.SAMPLE]
    if sampled:
        return f"stored samples name some of the users, in {', '.join(sampled)}", _AGAIN
    if tables:
        count = sum(left.unnamed for left in remains.values())
        return f"files that no version names have {counted(count, 'row')} of the users, in {tables}", LEFT_BY_RUNS
    unreadable = {n: left.unreadable for n, left in remains.items() if left.unreadable}
    if unreadable:
        count = sum(unreadable.values())
        they = "they hold" if count > 1 else "it holds"
        told = f"{counted(count, 'file', 'is')} not whole, so that nobody knows what {they}"
        return f"{told}, in {', '.join(unreadable)}", LEFT_BY_RUNS
    bounds = {n: left.bounds for n, left in remains.items() if left.bounds}
    if bounds:
        count = sum(bounds.values())
        what = f"{counted(count, 'entry', 'tells')} of files with the users, in the metadata of {', '.join(bounds)}"
        return what, _AGAIN
    return None
