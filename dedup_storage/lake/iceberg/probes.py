"""What an Iceberg catalog can do of what the toolkit asks of it, tried in a namespace that is removed afterwards."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dedup_storage.config import CatalogType, Settings
from dedup_storage.lake.folders import delete_folder
from dedup_storage.lake.iceberg.catalog import CATALOG_FILE, pyiceberg_properties
from dedup_storage.lake.iceberg.commit import TableChange, commit_change, commits, offers_one_commit
from dedup_storage.lake.iceberg.jars import jars_needed
from dedup_storage.lake.iceberg.metadata import Lake
from dedup_storage.lake.iceberg.snapshots import tags
from dedup_storage.lake.probing import (
    CONDITIONAL_PUT,
    SCRATCH_PREFIX,
    STORE_WRITE,
    Finding,
    FormatProbes,
    NewFolders,
    Probes,
    State,
    without_scratch,
)
from dedup_storage.lake.publishing import LostRaceError

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyspark.sql import SparkSession

__all__ = ["ANSWERS", "IcebergProbes", "jars_needed", "open_probes"]

ANSWERS, NAMESPACE, TABLE = "catalog answers", "catalog: namespace", "catalog: table"
TAGS = "catalog: tags and snapshots"
# What a catalog hands out with a table, by the part of the key that says so, and when it ends.
_HANDED_OUT = ("s3.access-key-id", "s3.secret-access-key", "s3.session-token", "gcs.oauth2.token", "adls.sas-token")
_UNTIL = "expires-at"
_KEYS_REMEDY = "Check the section catalog: its address, and the keys and rights of whoever runs this."
_SWAP_REMEDY = "Use a catalog that refuses a commit which rests on an outdated state; with this one versions get lost."
_TAGS_REMEDY = "Use a catalog that keeps a table's tags and snapshots: versions are made of them."


class IcebergProbes:
    """The ``FormatProbes`` of Iceberg.

    Args:
        settings: The configuration.
        probes: Takes the results.
        joined: A session runs already, with the catalog of the configuration.
    """

    def __init__(self, settings: Settings, probes: Probes, *, joined: bool) -> None:
        self.namespace = f"{SCRATCH_PREFIX}{uuid.uuid4().hex[:8]}"
        self.probes, self.hands_out_keys = probes, False
        self.bucketed: str | None = None
        self._folders = NewFolders(settings.local_warehouse)
        # Looking into an embedded catalog makes its file: one that is not there is tried in a folder that goes again.
        new = not Lake(settings).begun
        self._apart = new and not joined
        self._catalog_stays = new and joined
        if self._apart:
            settings = settings.model_copy(update={"warehouse": f"{settings.warehouse_uri}/{self.namespace}"})
        self.settings = settings
        self.lake = Lake(settings)
        self._location: str | None = None

    def place(self) -> str | None:
        """See ``FormatProbes``: the warehouse where clients put tables; where a server does, the folder of one."""
        if self.settings.catalog.type in (CatalogType.SQLITE, CatalogType.JDBC):
            return self.settings.warehouse_uri
        tried = ANSWERS in self.probes.taken and "://" in self.settings.warehouse
        return self._location or (self.settings.warehouse if tried else None)

    # -- without Spark ------------------------------------------------------------------------------------------

    def catalog(self) -> None:
        """See ``FormatProbes``."""
        take = self.probes.take
        embedded = self.settings.catalog.type is CatalogType.SQLITE
        take(ANSWERS, self._answers, remedy=_KEYS_REMEDY, needs=(STORE_WRITE,) if embedded else ())
        take(NAMESPACE, self._namespace, remedy=_KEYS_REMEDY, needs=(ANSWERS,))
        take(TABLE, self._table, remedy=_KEYS_REMEDY, needs=(NAMESPACE,))
        take(TAGS, self._spark_alone(self._tags), remedy=_TAGS_REMEDY, needs=(TABLE,))
        take("catalog: two writers", self._spark_alone(self._writers), remedy=_SWAP_REMEDY, needs=(TABLE, TAGS))
        take("catalog: all tables in one commit", self._transactions, needs=(ANSWERS,))
        take("catalog: keys of the store", self._keys, needs=(TABLE,))
        take(CONDITIONAL_PUT, lambda: Finding("the catalog decides which commit comes first", State.NOT_NEEDED))

    def _answers(self) -> Finding:
        kind = self.settings.catalog.type.value
        where = self.settings.catalog.uri or "embedded in the warehouse"
        left = [n[-1] for n in self.lake.catalog.list_namespaces() if n[-1].startswith(SCRATCH_PREFIX)]
        if not left:
            return Finding(f"{kind}, {where}")
        return Finding(
            f"{kind}, {where}; it holds {', '.join(left)}, of a doctor that was stopped or is at work",
            State.WARNING,
            "If none is at work, drop the tables of these namespaces and the namespaces.",
        )

    def _namespace(self) -> str:
        self.lake.catalog.create_namespace((self.namespace,))
        return "made"

    def _table(self) -> str:
        import pyarrow as pa

        schema = pa.schema([("user_id", pa.int64())])
        made = self.lake.catalog.create_table((self.namespace, "plain"), schema)
        self._location = made.location().rstrip("/")
        return f"made below {without_scratch(self._location)}"

    def _spark_alone(self, look: Callable[[], Finding | str]) -> Callable[[], Finding | str]:
        """A look at commits, or that there are none to look at without Spark."""
        if commits(self.settings):
            return look
        kind = self.settings.catalog.type.value
        return lambda: Finding(f"to a catalog of type {kind} only Spark commits", State.NOT_NEEDED)

    def _load(self) -> Table:
        return self.lake.catalog.load_table((self.namespace, "plain"))

    def _commit_snapshot(self) -> None:
        with self._load().transaction() as transaction, transaction.update_snapshot().fast_append():
            pass

    def _tags(self) -> Finding | str:
        self._commit_snapshot()
        table = self._load()
        first = table.metadata.current_snapshot_id
        if first is None:
            return Finding("a snapshot was committed and is not there", State.MISSING, _TAGS_REMEDY)
        commit_change(self.lake.catalog, table, TableChange(tags={"probe": first}))
        if tags(self._load()).get("probe") != first:
            return Finding("a tag was committed and is not there", State.MISSING, _TAGS_REMEDY)
        self._commit_snapshot()
        table = self._load()
        if table.snapshot_by_id(first) is None or tags(table).get("probe") != first:
            return Finding("only a table's newest snapshot is kept", State.MISSING, _TAGS_REMEDY)
        return "kept"

    def _writers(self) -> Finding | str:
        early, late = self._load(), self._load()
        change = TableChange(tags={"claim": tags(early)["probe"]})
        commit_change(self.lake.catalog, early, change)
        try:
            commit_change(self.lake.catalog, late, change)
        except LostRaceError:
            return "the second one was refused"
        return Finding("both were told that they came first", State.MISSING, _SWAP_REMEDY)

    def _transactions(self) -> Finding | str:
        if offers_one_commit(self.lake.catalog):
            return "offered; whether it keeps its word is tried with Spark, and by a first publication"
        return Finding("not offered; a version is published table by table, and is seen as one", State.NOT_NEEDED)

    def _keys(self) -> Finding | str:
        given, found = pyiceberg_properties(self.settings), self._load().io.properties
        handed = {k: v for k, v in found.items() if k.startswith(_HANDED_OUT) and given.get(k) != v and _UNTIL not in k}
        if not handed:
            return Finding(
                "the catalog hands out none; those of the settings and of the machine are used", State.NOT_NEEDED
            )
        self.hands_out_keys = True
        self.probes.secrets |= set(handed.values())
        return f"handed out by the catalog{_good_for(found)}: {', '.join(sorted(handed))}"

    # -- with Spark ---------------------------------------------------------------------------------------------

    def engine(self, spark: SparkSession) -> None:
        """See ``FormatProbes``."""
        from dedup_storage.lake.iceberg.engine_probes import take_engine_probes

        self.bucketed = take_engine_probes(spark, self.settings, self.lake, self.namespace, self.probes)

    # -- afterwards ---------------------------------------------------------------------------------------------

    def close(self) -> list[str]:
        """See ``FormatProbes``."""
        left = []
        if ANSWERS in self.probes.taken and self.probes.works(ANSWERS):
            try:
                self._drop()
            except Exception as error:  # noqa: BLE001 - what stays is told, whatever keeps it there
                left.append(f"the namespace {self.namespace} ({type(error).__name__})")
        if self._catalog_stays:
            left.append(
                f"the catalog {self.settings.warehouse_uri}/{CATALOG_FILE}, with nothing in it, which is in use"
            )
        if self._apart:
            shutil.rmtree(self.settings.warehouse_uri, ignore_errors=True)
            left += [f"the folder {self.settings.warehouse_uri}"] if Path(self.settings.warehouse_uri).exists() else []
        self._folders.remove()
        return left

    def _drop(self) -> None:
        """Remove the tables with their files, and the namespace."""
        from pyiceberg.exceptions import NoSuchNamespaceError

        catalog, store = self.lake.catalog, self.settings.catalog.properties
        try:
            tables = catalog.list_tables((self.namespace,))
        except NoSuchNamespaceError:
            return
        folders = [catalog.load_table(identifier).location().rstrip("/") for identifier in tables]
        for identifier in tables:
            # Where only the catalog has keys of the store, it removes the files too.
            (catalog.purge_table if self.hands_out_keys else catalog.drop_table)(identifier)
        if not self.hands_out_keys:
            # That of the namespace last; one of another name is not ours alone.
            spaces = [folder.rpartition("/")[0] for folder in folders if folder.count(self.namespace)]
            for place in (*folders, *(space for space in spaces if space.endswith(self.namespace))):
                if self.namespace in place:
                    delete_folder(place, store)
        catalog.drop_namespace((self.namespace,))


def _good_for(properties: Mapping[str, str]) -> str:
    ends = [int(value) for key, value in properties.items() if _UNTIL in key and str(value).isdigit()]
    if not ends:
        return ", without an end"
    return f" for {max(0, min(ends) / 1000 - time.time()):,.0f} s"


def open_probes(settings: Settings, probes: Probes, *, joined: bool) -> FormatProbes:
    """The probes of a configuration; see ``FormatProbes``."""
    return IcebergProbes(settings, probes, joined=joined)
