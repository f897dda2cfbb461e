"""What is under way on a Delta dataset, from its events and the folders of its runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

from dedup_storage.errors import StorageError
from dedup_storage.lake.branch import RUN_ID
from dedup_storage.lake.delta.metadata import DeltaLake, DeltaMetadata
from dedup_storage.lake.delta.stage import RUNS_FOLDER, StagedStore
from dedup_storage.lake.folders import child_folders, list_files
from dedup_storage.lake.status import GONE, HELD, PublicationStatus, RunAtWork, status_of

__all__ = ["delta_status"]

# The row of a branch after the one that begins it.
_FIRST = 2


def delta_status(lake: DeltaLake, meta: DeltaMetadata) -> PublicationStatus:
    """The status of a dataset; no data file is opened, no Spark is needed."""
    store = StagedStore(lake.uri(meta.spec.name), lake.settings.catalog.properties)
    pending = meta.claim(meta.pending) if meta.pending is not None else {}
    states = {}
    for name in filter(None, pending.get("staged-tables", "").split(",")):
        staged = store.get(pending["attempt"], name)
        states[name] = GONE if staged is None or store.lost(staged) else HELD
    runs = (*_staged(store, meta.decided), *_parts(lake, meta))
    return status_of(meta, states, runs, meta.versions.abandoned)


def _staged(store: StagedStore, decided: Collection[str]) -> Iterator[RunAtWork]:
    for attempt, since_ms in store.attempts().items():
        if attempt in decided:
            continue
        tables = store.tables(attempt)
        staged = (store.get(attempt, table) for table in tables)
        yield RunAtWork(
            run_id=attempt.partition("/")[0],
            job="",
            tables=tuple(tables),
            holds="rows",
            since_ms=since_ms,
            rows=sum(each.rows for each in staged if each is not None),
        )


def _parts(lake: DeltaLake, meta: DeltaMetadata) -> Iterator[RunAtWork]:
    root, properties = f"{lake.uri(meta.spec.name)}/{RUNS_FOLDER}", lake.settings.catalog.properties
    for name in child_folders(root, properties):
        tables = sorted(table for table in meta.tables if lake.is_table(f"{root}/{name}/{table}"))
        if tables:
            files = list_files(f"{root}/{name}", properties)
            since = min((file.mtime_ns for file in files), default=0) // 1_000_000
            run_ids = filter(None, (_run_of(lake, f"{root}/{name}/{table}") for table in tables))
            run_id = next(run_ids, name)
            yield RunAtWork(run_id=run_id, job="", tables=tuple(tables), holds="parts", since_ms=since)


def _run_of(lake: DeltaLake, place: str) -> str | None:
    """The run that a branch's first part on a table names; ``None`` without a part."""
    try:
        table = lake.opened.load(place).to_pyarrow_table(columns=["body"], filters=[("number", "=", _FIRST)])
    except (StorageError, OSError):
        if lake.is_table(place):
            raise
        # Dropped since it was listed.
        return None
    run_id: str | None = next((json.loads(text)["facts"].get(RUN_ID) for text in table["body"].to_pylist()), None)
    return run_id
