"""What is under way on a Delta dataset, from its events and the folders of its runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from dedup_storage.lake.delta.metadata import DeltaLake, DeltaMetadata
from dedup_storage.lake.delta.stage import RUNS_FOLDER, StagedStore
from dedup_storage.lake.folders import child_folders, list_files
from dedup_storage.lake.status import GONE, HELD, PublicationStatus, RunAtWork, status_of

__all__ = ["delta_status"]


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
            run_id=attempt.rpartition("/")[0],
            job="",
            tables=tuple(tables),
            holds="rows",
            since_ms=since_ms,
            rows=sum(each.rows for each in staged if each is not None),
        )


def _parts(lake: DeltaLake, meta: DeltaMetadata) -> Iterator[RunAtWork]:
    root, properties = f"{lake.uri(meta.spec.name)}/{RUNS_FOLDER}", lake.settings.catalog.properties
    for name in child_folders(root, properties):
        tables = [table for table in meta.tables if lake.is_table(f"{root}/{name}/{table}")]
        if tables:
            files = list_files(f"{root}/{name}", properties)
            since = min((file.mtime_ns for file in files), default=0) // 1_000_000
            yield RunAtWork(run_id=name, job="", tables=tuple(sorted(tables)), holds="parts", since_ms=since)
