"""Adoption: the log becomes version 1 of a dataset; no row is copied or moved."""

from __future__ import annotations

import time

from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.adopt.source import adopted_spec, find_source
from dedup_storage.dataset.handle import open_handle
from dedup_storage.dataset.lineage import Accounts
from dedup_storage.errors import DatasetExistsError
from dedup_storage.lake.formats import table_format
from dedup_storage.lake.protocol import Run
from dedup_storage.lake.runs import named_run
from dedup_storage.lineage.model import Source, Verb
from dedup_storage.lineage.places import catalog_place, place_of
from dedup_storage.lineage.telling import told
from dedup_storage.report.parquet.dataset_files import dataset_files
from dedup_storage.schema import LogSchema, check_name
from dedup_storage.sources.address import Kind, is_place
from dedup_storage.spark.errors import translated

__all__ = ["AdoptSummary", "adopt"]


class AdoptSummary(BaseModel):
    """What an adoption did.

    Attributes:
        source, kind: What was adopted.
        files, stored_bytes, rows: What it holds; all of it lies where it lay.
        dated: Whether event dates can be filtered on: the log has its own column ``event_date``.
        note: What becomes of the source.
        seconds: Wall time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    version: int
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
    spark: SparkSession, settings: Settings, name: str, schema: LogSchema, source: str, run_id: str | None = None
) -> AdoptSummary:
    """Make an existing flat log version 1 of a new dataset, without copying it.

    What an adopted dataset has: reading, versions, appends, reports, the reader, ``convert``. Everything that rewrites
    segments asks to convert it first, since it has none.

    Args:
        spark, settings: Session and settings; the configured format must fit the source.
        name: Name of the dataset.
        schema: Meaning of the columns; a position is needed.
        source: ``namespace.table`` (Iceberg), or the folder of a Delta table or of Parquet files.
        run_id: Name of the run.

    Raises:
        InputError: the source cannot be adopted; says why.
        DatasetExistsError: there is a dataset of that name.
    """
    check_name(name, "dataset name")
    named = named_run(run_id, "adopt")
    place = place_of(source) if is_place(source) else catalog_place(settings, source)
    return told(
        settings,
        Verb(name, "adopt", named, sources=(Source(place),)),
        lambda: _adopt(spark, settings, name, schema, source, named),
        lambda done: Accounts(open_handle(spark, settings, name)).made(done.version, named, [Source(place)]),
    )


def _adopt(
    spark: SparkSession, settings: Settings, name: str, schema: LogSchema, source: str, run_id: str
) -> AdoptSummary:
    start = time.perf_counter()
    with translated():
        tables = table_format(spark, settings)
        if tables.find(name) is not None:
            raise DatasetExistsError(f"the dataset {name} exists already", fix="Choose another name.")
        log = find_source(spark, settings, source, schema)
        grain, buckets = tables.partitions_of(log.kind.value, log.place, schema)
        spec = adopted_spec(log, name, schema, grain, buckets)
        columns = dict(zip(spec.source_columns, spec.source_types, strict=True))
        run = Run(run_id=run_id, job="adopt", attempt=run_id, base=0, dates=None)
        tables.adopt(spec, log.kind.value, log.place, columns, run)
        meta = tables.metadata(name)
        files = dataset_files(settings, name)
    return AdoptSummary(
        dataset=name,
        version=meta.current,
        source=source,
        kind=log.kind.value,
        files=sum(len(t.files) for t in files.tables),
        stored_bytes=sum(t.size_bytes for t in files.tables),
        rows=meta.rows(meta.current).get(spec.anchor.name, 0),
        dated=spec.event_date_column is not None,
        note=_NOTES[log.kind].format(dataset=name),
        seconds=round(time.perf_counter() - start, 3),
    )
