"""What a write tells of its log as OpenLineage events; without Spark where a version holds the run already."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dedup_storage.config import Settings
from dedup_storage.dataset.write.summary import WriteSummary
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lineage.accounts import Tables
from dedup_storage.lineage.model import Account, Source, Verb
from dedup_storage.lineage.places import catalog_place, place_of
from dedup_storage.lineage.telling import told
from dedup_storage.sources.origin import Origin

__all__ = ["WRITE", "log_sources", "written_before"]

# Name of the job, from the command line and from Python.
WRITE = "write"


def log_sources(settings: Settings, origins: Iterable[tuple[str, Origin]]) -> tuple[Source, ...]:
    """Where a raw log was read from; nothing for frames at hand."""
    found = []
    for _, origin in origins:
        if origin.table is not None:
            found.append(Source(catalog_place(settings, origin.table)))
        elif origin.place is not None:
            found.append(Source(place_of(origin.place)))
    return tuple(found)


def written_before(
    settings: Settings, meta: DatasetMetadata, summary: WriteSummary, origins: Iterable[tuple[str, Origin]]
) -> WriteSummary:
    """Tell of a write that a version holds already: it was killed before it could say so, or is asked for again."""
    sources = log_sources(settings, origins)

    def account(done: WriteSummary) -> Account:
        known = Tables(settings, meta).of_run(done.run_id, rewrites=False)
        return replace(known, sources=sources, already=True)

    verb = Verb(summary.dataset, WRITE, summary.run_id, sources=sources)
    return told(settings, verb, lambda: summary, account)
