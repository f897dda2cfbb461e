"""Small commits to Iceberg tables without Spark: properties, tags.

PyIceberg does not write metadata of format version 3. A REST catalog writes it itself. For a SQL catalog it is written
here, from the JSON that is there: nothing is lost that PyIceberg does not know. As with every writer of such a catalog,
what decides is one conditional update of the table's row.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dedup_storage.config import CatalogType, Settings
from dedup_storage.errors import ConflictError, UsageError
from dedup_storage.lake.publishing import LostRaceError
from dedup_storage.lake.retries import small_commits

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table

__all__ = ["TableChange", "change_table", "commit_change", "commits", "offers_one_commit", "require_commits"]

_COMMITTING = (CatalogType.SQLITE, CatalogType.JDBC, CatalogType.REST)
_TRANSACTIONS = "transactions/commit"
_KEPT_METADATA = 100
_VERSION = re.compile(r"(?:^|/)v?(\d+)[^/]*$")


@dataclass(frozen=True)
class TableChange:
    """What one commit changes.

    Attributes:
        set: Property -> value.
        remove: Properties that go.
        tags: Tag -> snapshot that it names.
        untag: Tags that go.
        absent: Tags that nobody may have made when the change is committed.
    """

    set: Mapping[str, str] = field(default_factory=dict)
    remove: Collection[str] = ()
    tags: Mapping[str, int] = field(default_factory=dict)
    untag: Collection[str] = ()
    absent: Collection[str] = ()


def commits(settings: Settings) -> bool:
    """Whether tables of a catalog can be changed without Spark."""
    return settings.catalog.type in _COMMITTING


def offers_one_commit(catalog: Catalog) -> bool:
    """Whether a catalog says that it commits to several tables at once."""
    # Of what the server's configuration says, PyIceberg shows only what it uses itself.
    offered = getattr(catalog, "_supported_endpoints", ())
    return any(_TRANSACTIONS in str(endpoint) for endpoint in offered)


def require_commits(settings: Settings, what: str) -> None:
    """Refuse an operation where only Spark can commit.

    Raises:
        UsageError: the catalog is of another kind.
    """
    if not commits(settings):
        raise UsageError(
            f"{what} without Spark needs another kind of catalog",
            expected="catalog.type sqlite, jdbc or rest",
            got=settings.catalog.type.value,
        )


def change_table(
    catalog: Catalog, identifier: tuple[str, str], plan: Callable[[Table], TableChange | None], attempts: int = 30
) -> Table:
    """Commit a change to a table; gives the table as it is then.

    Args:
        catalog: One that ``commits``.
        identifier: Namespace and name.
        plan: Gives the change for the table as it is, ``None`` where nothing is left to do. Called again whenever
            another writer's commit came first.
        attempts: How often.

    Raises:
        ConflictError: other writers' commits came first each time.
        NoSuchTableError: there is no such table (PyIceberg's).
    """
    try:
        for attempt in small_commits(lambda error: isinstance(error, LostRaceError), attempts):
            with attempt:
                table = catalog.load_table(identifier)
                change = plan(table)
                if change is None:
                    return table
                commit_change(catalog, table, change)
                return catalog.load_table(identifier)
    except LostRaceError as error:
        raise ConflictError(
            f"other writers changed the table {'.'.join(identifier)} each time that this one tried to", fix="Run again."
        ) from error
    raise AssertionError("unreachable: tenacity reraises")


def commit_change(catalog: Catalog, table: Table, change: TableChange) -> None:
    """Commit a change that rests on a table as it was loaded, once.

    Raises:
        LostRaceError: another commit came first.
    """
    from pyiceberg.catalog.sql import SqlCatalog

    if isinstance(catalog, SqlCatalog):
        _commit_row(catalog, table, change)
    else:
        _commit_request(catalog, table, change)


def _commit_request(catalog: Catalog, table: Table, change: TableChange) -> None:
    """Send the change to a catalog that writes metadata itself, with what it rests on."""
    from pyiceberg.exceptions import CommitFailedException
    from pyiceberg.table import update

    updates: list[Any] = []
    needs: list[Any] = [update.AssertTableUUID(uuid=table.metadata.table_uuid)]
    if change.set:
        updates.append(update.SetPropertiesUpdate(updates=dict(change.set)))
    if change.remove:
        updates.append(update.RemovePropertiesUpdate(removals=list(change.remove)))
    for name, snapshot_id in change.tags.items():
        updates.append(
            update.SetSnapshotRefUpdate(
                ref_name=name, type="tag", snapshot_id=snapshot_id, max_ref_age_ms=None, max_snapshot_age_ms=None,
                min_snapshots_to_keep=None,
            )
        )  # fmt: skip
    updates.extend(update.RemoveSnapshotRefUpdate(ref_name=name) for name in change.untag)
    # Where every reference stands must be as it was when the change was planned: a publication is a moved reference.
    named = {*table.metadata.refs, *change.tags, *change.untag, *change.absent}
    for name in sorted(named):
        ref = table.metadata.refs.get(name)
        needs.append(update.AssertRefSnapshotId(ref=name, snapshot_id=ref.snapshot_id if ref else None))
    try:
        catalog.commit_table(table, tuple(needs), tuple(updates))
    except CommitFailedException as error:
        raise LostRaceError(str(error)) from error


def _commit_row(catalog: SqlCatalog, table: Table, change: TableChange) -> None:
    """Write the metadata anew and let the table's row name it, if it still names the old one."""
    from pyiceberg.catalog.sql import IcebergTables
    from sqlalchemy import update
    from sqlalchemy.exc import OperationalError

    old = table.metadata_location
    provider = table.location_provider()
    new = provider.new_table_metadata_file_location(_number(old) + 1)
    text = json.dumps(_changed(_read(table), change, old))
    with table.io.new_output(new).create() as stream:
        stream.write(text.encode())
    row = update(IcebergTables).where(
        IcebergTables.catalog_name == catalog.name,
        IcebergTables.table_namespace == ".".join(table.name()[:-1]),
        IcebergTables.table_name == table.name()[-1],
        IcebergTables.metadata_location == old,
    )
    lost: Exception | None = None
    try:
        with catalog.engine.begin() as connection:
            moved = connection.execute(row.values(metadata_location=new, previous_metadata_location=old)).rowcount == 1
    except OperationalError as error:
        # Another writer holds the database, or it went away without a word: only the row knows.
        lost, moved = error, _landed(catalog.load_table(table.name()), new)
    if not moved:
        table.io.delete(new)
        raise LostRaceError("another commit came first") from lost


def _landed(table: Table, location: str) -> bool:
    """Whether a metadata file is the table's own, now or before."""
    return location in (table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log))


def _read(table: Table) -> dict[str, Any]:
    with table.io.new_input(table.metadata_location).open() as stream:
        content = stream.read()
    packed = content[:2] == b"\x1f\x8b"
    found: dict[str, Any] = json.loads(gzip.decompress(content) if packed else content)
    return found


def _number(location: str) -> int:
    """The number that a metadata file's name begins with."""
    found = _VERSION.search(location)
    return int(found.group(1)) if found else -1


def _changed(metadata: dict[str, Any], change: TableChange, location: str) -> dict[str, Any]:
    """The metadata after the change; everything else stays as it was."""
    properties = {k: v for k, v in metadata.get("properties", {}).items() if k not in change.remove} | dict(change.set)
    refs = {name: ref for name, ref in metadata.get("refs", {}).items() if name not in change.untag}
    refs |= {name: {"snapshot-id": snapshot_id, "type": "tag"} for name, snapshot_id in change.tags.items()}
    before = metadata["last-updated-ms"]
    most = int(properties.get("write.metadata.previous-versions-max", _KEPT_METADATA))
    log = [*metadata.get("metadata-log", []), {"timestamp-ms": before, "metadata-file": location}][-most:]
    return {
        **metadata,
        "properties": properties,
        "refs": refs,
        # Clocks of machines differ; the log of metadata must not run backwards.
        "last-updated-ms": max(before, time.time_ns() // 1_000_000),
        "metadata-log": log,
    }
