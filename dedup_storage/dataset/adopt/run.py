"""Adoption: the log becomes version 1 of a dataset; no row is copied or moved."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.adopt.source import Source as AdoptedLog
from dedup_storage.dataset.adopt.source import adopted_spec, find_source
from dedup_storage.dataset.handle import open_handle
from dedup_storage.dataset.lineage import Accounts
from dedup_storage.errors import DatasetExistsError
from dedup_storage.lake.formats import table_format
from dedup_storage.lake.history import DatasetMetadata
from dedup_storage.lake.protocol import Run
from dedup_storage.lake.publishing import require_same
from dedup_storage.lake.requests import REQUEST, Request
from dedup_storage.lake.runs import named_run
from dedup_storage.layout import DatasetSpec
from dedup_storage.lineage.model import Place, Source, Verb
from dedup_storage.lineage.places import catalog_place, place_of
from dedup_storage.lineage.telling import told
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.schema import LogSchema, check_name
from dedup_storage.sources.address import Kind, is_place
from dedup_storage.spark.errors import translated

__all__ = ["AdoptSummary", "adopt"]

# The fact of a version that says what held the log.
_KIND = "adopted"


class AdoptSummary(BaseModel):
    """What an adoption did.

    Attributes:
        version: The version that holds the log; of a dry run 0, for there is none.
        dry_run: Nothing was done: what would be.
        already_published: The run id was published before; nothing was done now.
        source, kind: What was adopted.
        files, stored_bytes, rows: What the dataset holds; all that was adopted lies where it lay.
        dated: Whether event dates can be filtered on: the log has its own column ``event_date``.
        note: What becomes of the source.
        seconds: Wall time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    version: int
    dry_run: bool = False
    already_published: bool = False
    source: str
    kind: str
    files: int
    stored_bytes: int
    rows: int
    dated: bool
    note: str
    seconds: float


_NOTES = {
    Kind.ICEBERG: "The table is renamed to {dataset}.logs; its old name is free. Rename it back to undo.",
    Kind.DELTA: "The dataset names the table's files where they lie; a VACUUM of the table may delete them.",
    Kind.PARQUET: "The dataset names the files where they lie: do not change or delete them.",
}


def adopt(
    spark: SparkSession,
    settings: Settings,
    name: str,
    schema: LogSchema,
    source: str,
    run_id: str | None = None,
    *,
    dry_run: bool = False,
) -> AdoptSummary:
    """Make an existing flat log version 1 of a new dataset, without copying it.

    What an adopted dataset has: reading, versions, appends, reports, the reader, ``convert``. Everything that rewrites
    segments asks to convert it first, since it has none.

    Args:
        spark, settings: Session and settings; the configured format must fit the source.
        name: Name of the dataset.
        schema: Meaning of the columns; a position is needed.
        source: ``namespace.table`` (Iceberg), or the folder of a Delta table or of Parquet files.
        run_id: Name of the run; publishing it twice changes nothing, and another source or schema is refused.
        dry_run: Look at the log, say what would be adopted, and change nothing.

    Raises:
        UsageError: the run id is that of a run with another source or schema; names what differs.
        InputError: the source cannot be adopted; says why.
        DatasetExistsError: there is a dataset of that name.
    """
    check_name(name, "dataset name")
    named = named_run(run_id, "adopt")
    place = place_of(source) if is_place(source) else catalog_place(settings, source)
    request = _asked(place, schema)
    if dry_run:
        return _adopt(spark, settings, name, schema, source, named, request, dry_run=True)
    return told(
        settings,
        Verb(name, "adopt", named, sources=(Source(place),)),
        lambda: _adopt(spark, settings, name, schema, source, named, request),
        lambda done: replace(
            Accounts(open_handle(spark, settings, name)).made(done.version, named, [Source(place)]),
            already=done.already_published,
        ),
    )


def _asked(place: Place, schema: LogSchema) -> Request:
    """What an adoption is asked for; the place of a log, in which no secret is."""
    request = Request.of("adopt", schema=schema.model_dump(mode="json", exclude_defaults=True))
    return request.with_texts(source=f"{place.name} of {place.namespace}")


def _adopt(
    spark: SparkSession,
    settings: Settings,
    name: str,
    schema: LogSchema,
    source: str,
    run_id: str,
    request: Request,
    *,
    dry_run: bool = False,
) -> AdoptSummary:
    start = time.perf_counter()
    with translated():
        tables = table_format(spark, settings)
        existing = tables.find(name)
        if existing is not None:
            version = _adopted_before(existing, request, run_id)
            kind = Kind(existing.claim(version)[_KIND])
            return _summary(settings, existing, source, kind, start).model_copy(
                update={"version": version, "already_published": True, "dry_run": dry_run}
            )
        log = find_source(spark, settings, source, schema, partial(tables.lies_at, name))
        grain, buckets = tables.partitions_of(log.kind.value, log.place, schema)
        spec = adopted_spec(log, name, schema, grain, buckets)
        if dry_run:
            return _planned(spec, source, log, start)
        columns = dict(zip(spec.source_columns, spec.source_types, strict=True))
        facts = {_KIND: log.kind.value, **request.facts}
        run = Run(run_id=run_id, job="adopt", attempt=run_id, base=0, dates=None, facts=facts)
        tables.adopt(spec, log.kind.value, log.place, columns, run)
        return _summary(settings, tables.metadata(name), source, log.kind, start)


def _adopted_before(existing: DatasetMetadata, request: Request, run_id: str) -> int:
    """The version in which this run adopted this log already.

    Raises:
        DatasetExistsError: the dataset is not this run's.
        UsageError: the run adopted another log.
    """
    version = existing.version_of_run(run_id)
    # Adoptions of before kept no request, and are refused whatever they took.
    if version is None or REQUEST not in existing.claim(version):
        raise DatasetExistsError(f"the dataset {existing.spec.name} exists already", fix="Choose another name.")
    require_same(existing, request.text, run_id)
    return version


def _planned(spec: DatasetSpec, source: str, log: AdoptedLog, start: float) -> AdoptSummary:
    files, stored_bytes = log.stored()
    return AdoptSummary(
        dataset=spec.name,
        version=0,
        dry_run=True,
        source=source,
        kind=log.kind.value,
        files=files,
        stored_bytes=stored_bytes,
        rows=log.frame.count(),
        dated=spec.event_date_column is not None,
        note=_NOTES[log.kind].format(dataset=spec.name),
        seconds=round(time.perf_counter() - start, 3),
    )


def _summary(settings: Settings, meta: DatasetMetadata, source: str, kind: Kind, start: float) -> AdoptSummary:
    name, spec = meta.spec.name, meta.spec
    files = dataset_files(settings, name)
    return AdoptSummary(
        dataset=name,
        version=meta.current,
        source=source,
        kind=kind.value,
        files=sum(len(t.files) for t in files.tables),
        stored_bytes=sum(t.size_bytes for t in files.tables),
        rows=meta.rows(meta.current).get(spec.anchor.name, 0),
        dated=spec.event_date_column is not None,
        note=_NOTES[kind].format(dataset=name),
        seconds=round(time.perf_counter() - start, 3),
    )
