"""Datasets for the examples, built from two public logs, and the batches that the models read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from pyspark.sql import SparkSession

from dedup_storage.cli.runtime import Job, local_spark
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.demo import complete_journey, ebnerd
from dedup_storage.errors import SchemaError, UsageError
from dedup_storage.reader import DedupBatch, DedupDataset
from dedup_storage.schema import LogSchema
from dedup_storage.sources.raw import RawLog

__all__ = ["Columns", "Source", "build", "open_dataset", "write_dataset"]

_MAX_LENGTH = 256


class Source(StrEnum):
    """Public logs that a dataset can be built from."""

    COMPLETE_JOURNEY = "complete-journey"
    EBNERD = "ebnerd"


def _raw_log(source: Source, directory: Path, share: float) -> LogSchema:
    """Lay the raw log down unless it is there; its schema."""
    there = any(directory.glob("*.parquet"))
    if source is Source.COMPLETE_JOURNEY:
        if not there:
            complete_journey.write_log(directory, share=share, max_length=_MAX_LENGTH)
        return complete_journey.log_schema(_MAX_LENGTH)
    place = os.environ.get("EBNERD_DIR")
    if not place:
        raise UsageError("EBNERD_DIR is not set", expected="the directory of behaviors.parquet and history.parquet")
    if not there:
        ebnerd.write_log(Path(place), directory)
    return ebnerd.log_schema()


def write_dataset(
    spark: SparkSession, settings: Settings, name: str, source: Source, raw: Path, share: float = 0.02
) -> None:
    """Write a dataset from one of the public logs, once.

    Args:
        spark: Session over the settings' catalog.
        settings: Where the dataset goes.
        name: The dataset's name.
        source: Which log.
        raw: Where the raw log goes.
        share: Share of Complete Journey's households.
    """
    schema = _raw_log(source, raw, share)
    log = RawLog.read(spark, str(raw), schema=schema)
    Dataset.create(spark, settings, name, schema, log).write(log, run_id="examples")


def build(job: Job, source: Source, name: str, directory: Path, share: float) -> None:
    """``write_dataset`` with a session of its own and progress on the terminal."""
    with local_spark(job.settings, debug=job.debug) as spark, job.step(f"Writing {name} from {source}", spark):
        write_dataset(spark, job.settings, name, source, directory / source, share)


@dataclass(frozen=True)
class Columns:
    """The columns that the models use, and when an impression is a positive: its label exceeds ``threshold``."""

    user: str
    item: str
    history: str
    label: str | None
    threshold: float = 0.0

    def positives(self, batch: DedupBatch) -> torch.Tensor:
        """(B,) bool; without a label every impression is one, with a null label none."""
        if self.label is None:
            return torch.ones(len(batch), dtype=torch.bool, device=batch.device)
        column = batch[self.label]
        found = column.values > self.threshold
        return found if column.valid is None else found & column.valid


def open_dataset(
    name: str, settings: Settings, *, history: str | None, label: str | None, threshold: float, **options: Any
) -> tuple[DedupDataset, Columns]:
    """Open a dataset with the few columns that the models read.

    Args:
        name: The dataset.
        settings: Where it is.
        history: List of earlier items; ``None`` takes the first list that is no list of times.
        label: Label column; ``None`` takes the first label.
        threshold: See ``Columns``.
        **options: Further options of ``DedupDataset``.
    """
    schema = DedupDataset(name, settings).plan.spec.schema_
    lists = [s.column for s in schema.sequences if not s.times] if history is None else [history]
    if not lists:
        raise SchemaError(f"the dataset {name} has no history list", fix="Name a list column with --history.")
    labels = list(schema.labels[:1]) if label is None else [label]
    columns = Columns(schema.user, schema.item, lists[0], next(iter(labels), None), threshold)
    read = [schema.user, schema.item, lists[0], *labels]
    # Hashed strings mean the same in every batch, so that ids of any type can be looked up in one table.
    return DedupDataset(name, settings, columns=read, strings="hash", **options), columns
