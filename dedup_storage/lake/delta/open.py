"""Opening Delta tables without Spark, and refusing those whose files do not hold their rows as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dedup_storage.errors import ConfigError, MissingDependencyError, StorageError
from dedup_storage.lake.stores import UNKNOWN_TO_DELTA, scheme_of

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["load_delta", "refuse_unreadable"]

_COLUMN_MAPPING = "delta.columnMapping.mode"
# Reader features that change nothing of how a file is read.
_READABLE = {"timestampNtz", "vacuumProtocolCheck", "v2Checkpoint"}
_FIXES = {
    "deletionVectors": "ALTER TABLE delta.`{uri}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'false'); "
    "REORG TABLE delta.`{uri}` APPLY (PURGE); ALTER TABLE delta.`{uri}` DROP FEATURE deletionVectors",
    "columnMapping": "ALTER TABLE delta.`{uri}` SET TBLPROPERTIES ('delta.columnMapping.mode' = 'none')",
}


def load_delta(uri: str, options: Mapping[str, str] | None = None, version: int | None = None) -> DeltaTable:
    """Open a Delta table without Spark.

    Raises:
        MissingDependencyError: ``deltalake`` is not installed.
        ConfigError: its store's keys are of a kind that ``deltalake`` does not take.
        StorageError: it cannot be read, or has the version no more.
    """
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise MissingDependencyError(
            "reading Delta tables needs the package deltalake",
            fix="Install it with: pip install 'dedup_storage[delta]'.",
        ) from None
    if UNKNOWN_TO_DELTA in (options or {}) and scheme_of(uri) in ("gs", "gcs"):
        raise ConfigError(
            f"{UNKNOWN_TO_DELTA} does not open Delta tables: the package deltalake takes no token",
            expected="the machine's role, or a service account",
            fix="Set GOOGLE_APPLICATION_CREDENTIALS, and leave the property out.",
        )
    try:
        return DeltaTable(uri, version=version, storage_options=dict(options or {}))
    except (DeltaError, OSError) as error:
        text = str(error).splitlines()[0][:300]
        if version is not None and _opens(uri, options):
            raise StorageError(
                f"version {version} of the Delta table {uri} cannot be read: {text}",
                fix="It has expired since, or an erasure took its place. Run the job again; a reader opens the dataset "
                "again.",
            ) from error
        raise StorageError(f"the Delta table {uri} cannot be read: {text}") from error


def _opens(uri: str, options: Mapping[str, str] | None) -> bool:
    """Whether the newest version of a table can be opened."""
    try:
        load_delta(uri, options)
    except StorageError:
        return False
    return True


def refuse_unreadable(table: DeltaTable, uri: str) -> None:
    """Refuse a table whose files do not hold its rows as they are.

    Raises:
        StorageError: names the features, and the command that makes the table readable.
    """
    features = set(table.protocol().reader_features or ()) - _READABLE
    mode = table.metadata().configuration.get(_COLUMN_MAPPING, "none")
    features.discard("columnMapping")
    if mode != "none":
        features.add("columnMapping")
    if features:
        known = "; ".join(_FIXES[f].format(uri=uri) for f in sorted(features) if f in _FIXES)
        ways_out = f"Run in Spark: {known}. What is published after that is readable."
        raise StorageError(
            f"the Delta table {uri} uses {' and '.join(sorted(features))}, which reading without Spark does not know",
            expected="plain Parquet files",
            fix=ways_out if known else "Rewrite it as a plain table.",
        )
