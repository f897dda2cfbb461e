"""The versions of a Delta dataset: a small Delta table of events beside its tables, read and written without Spark.

Delta's log is one line of commits for each table, and none spans tables. So what makes a version is an event of this
table, appended by one atomic commit:

``claim`` N
    version N is decided: its facts name the attempt whose staged files make it. Only one writer can append it.
``published`` N
    version N is complete: its body has the Delta version of every table. Readers look at these alone.
``pin`` N
    a label that keeps version N.

Exactly one ``claim`` of a number is accepted: each carries Delta's own application transaction, and of two commits
with the same one, made from one state of the log, the later is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dedup_storage.errors import MissingDependencyError, StorageError
from dedup_storage.schema import check_name

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["VERSIONS_TABLE", "VersionLog", "Versions", "load_delta", "refuse_unreadable", "storage_options"]

VERSIONS_TABLE = "_versions"
_COLUMN_MAPPING = "delta.columnMapping.mode"
# Reader features that change nothing of how a file is read.
_READABLE = {"timestampNtz", "vacuumProtocolCheck", "v2Checkpoint"}
_FIXES = {
    "deletionVectors": "ALTER TABLE delta.`{uri}` SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'false'); "
    "REORG TABLE delta.`{uri}` APPLY (PURGE); ALTER TABLE delta.`{uri}` DROP FEATURE deletionVectors",
    "columnMapping": "ALTER TABLE delta.`{uri}` SET TBLPROPERTIES ('delta.columnMapping.mode' = 'none')",
}
_SCHEMA = pa.schema(
    [
        ("event", pa.string()),
        ("version", pa.int64()),
        ("at_ms", pa.int64()),
        ("label", pa.string()),
        ("body", pa.string()),
    ]
)
_FOREVER = "interval 36500 days"
# Small files of the table itself, one an event, before they are joined.
_MOST_FILES = 64
_S3 = {
    "s3.endpoint": "AWS_ENDPOINT_URL",
    "s3.access-key-id": "AWS_ACCESS_KEY_ID",
    "s3.secret-access-key": "AWS_SECRET_ACCESS_KEY",
    "s3.session-token": "AWS_SESSION_TOKEN",
    "s3.region": "AWS_REGION",
}


def storage_options(properties: Mapping[str, str]) -> dict[str, str]:
    """Catalog properties as the ``deltalake`` package names them."""
    return {name: properties[key] for key, name in _S3.items() if key in properties}


def load_delta(uri: str, options: Mapping[str, str] | None = None, version: int | None = None) -> DeltaTable:
    """Open a Delta table without Spark.

    Raises:
        MissingDependencyError: ``deltalake`` is not installed.
        StorageError: it cannot be read.
    """
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise MissingDependencyError(
            "reading Delta tables needs the package deltalake",
            fix="Install it with: pip install 'dedup_storage[delta]'.",
        ) from None
    try:
        return DeltaTable(uri, version=version, storage_options=dict(options or {}))
    except (DeltaError, OSError) as error:
        text = str(error).splitlines()[0][:300]
        raise StorageError(f"the Delta table {uri} cannot be read: {text}") from error


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


@dataclass
class Versions:
    """What the events say.

    Attributes:
        claims: Version -> facts of the run that decided it.
        published: Version -> body: ``snapshots`` (table -> Delta version), ``rows``, ``definitions``.
        pins: Version -> labels.
    """

    claims: dict[int, dict[str, str]] = field(default_factory=dict)
    published: dict[int, dict[str, Any]] = field(default_factory=dict)
    pins: dict[int, set[str]] = field(default_factory=dict)


class VersionLog:
    """The table of events of one dataset.

    Args:
        uri: The dataset's folder.
        options: Of ``deltalake``.
    """

    def __init__(self, uri: str, options: Mapping[str, str] | None = None) -> None:
        self.uri, self._options = f"{uri}/{VERSIONS_TABLE}", dict(options or {})

    def create(self) -> None:
        """Create it, if it is not there."""
        from deltalake import DeltaTable

        DeltaTable.create(
            self.uri,
            schema=_SCHEMA,
            mode="ignore",
            configuration={"delta.logRetentionDuration": _FOREVER},
            storage_options=self._options,
        )

    def load(self) -> Versions:
        """Fold the events."""
        return self._fold(load_delta(self.uri, self._options))

    def _fold(self, table: DeltaTable) -> Versions:
        found = Versions()
        for row in table.to_pyarrow_table().to_pylist():
            number = row["version"]
            if row["event"] == "claim":
                found.claims[number] = {**json.loads(row["body"]), "created-ms": str(row["at_ms"])}
            elif row["event"] == "published":
                found.published[number] = json.loads(row["body"])
            elif row["event"] == "pin":
                found.pins.setdefault(number, set()).add(row["label"])
        return found

    def claim(self, version: int, facts: Mapping[str, str]) -> bool:
        """Decide a version; ``False`` when another run decided it, or this one would leave a gap."""
        return self._append_once("claim", version, facts)

    def publish(self, version: int, body: Mapping[str, Any]) -> bool:
        """Complete a version; ``False`` when another run did."""
        return self._append_once("published", version, body)

    def _append_once(self, event: str, version: int, body: Mapping[str, Any]) -> bool:
        from deltalake import CommitProperties, Transaction
        from deltalake.exceptions import CommitFailedError

        table = load_delta(self.uri, self._options)
        if (table.transaction_version(event) or 0) != version - 1:
            return False
        # The commit is checked against those that came after the state that was just looked at.
        properties = CommitProperties(app_transactions=[Transaction(event, version)], max_commit_retries=30)
        try:
            self._write(table, event, version, None, body, properties)
        except CommitFailedError:
            return False
        return True

    def pin(self, version: int, label: str) -> None:
        """Keep a version under a label; twice is once."""
        table = load_delta(self.uri, self._options)
        if label not in self._fold(table).pins.get(version, ()):
            self._write(table, "pin", version, label, {}, None)

    def unpin(self, version: int, label: str) -> None:
        """Remove a version's label."""
        check_name(label, "pin label")
        table = load_delta(self.uri, self._options)
        table.delete(f"event = 'pin' AND version = {int(version)} AND label = '{label}'")

    def forget(self, versions: list[int]) -> None:
        """Take published versions back; what was decided of them stays known."""
        table = load_delta(self.uri, self._options)
        listed = ", ".join(str(int(v)) for v in versions)
        table.delete(f"event IN ('published', 'pin') AND version IN ({listed})")

    def tidy(self) -> None:
        """Join the table's own small files when there are many."""
        table = load_delta(self.uri, self._options)
        if len(table.file_uris()) >= _MOST_FILES:
            table.optimize.compact()

    def _write(
        self,
        table: DeltaTable,
        event: str,
        version: int,
        label: str | None,
        body: Mapping[str, Any],
        properties: Any,
    ) -> None:
        from deltalake import write_deltalake

        now = time.time_ns() // 1_000_000
        row = {"event": event, "version": version, "at_ms": now, "label": label, "body": json.dumps(body)}
        rows = pa.Table.from_pylist([row], schema=_SCHEMA)
        write_deltalake(table, rows, mode="append", commit_properties=properties)
