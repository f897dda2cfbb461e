"""Tuning every table of a dataset on one sample of users."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from dedup_storage.layout import TableRole
from dedup_storage.report.draw.select import SAMPLE_BYTES, sample_dataset
from dedup_storage.report.draw.users import LogSample
from dedup_storage.report.parquet.dataset_files import DatasetFiles
from dedup_storage.report.parquet.encoding import Encoding
from dedup_storage.report.parquet.footers import OnFile
from dedup_storage.report.show.summary import read_totals
from dedup_storage.report.tune.proposal import Proposal, propose
from dedup_storage.report.tune.search import Grid, Tuner

__all__ = ["sample_tables", "tune_dataset"]

# Rows of a flat table are repeated in memory: its tuner takes a part of the sample.
_FLAT_BYTES = 256 * 1024**2
_MOST_FILES = 8


def tune_dataset(
    dataset: DatasetFiles,
    *,
    share: float | None = None,
    sample_bytes: int = SAMPLE_BYTES,
    tolerance: float = 0.10,
    grid: Grid | None = None,
    on_file: OnFile | None = None,
    on_step: Callable[[str], None] | None = None,
) -> list[Proposal]:
    """Propose settings for the data tables of a version, from those in use.

    Raises:
        InputError, SchemaError: no rows, or no sequence columns.
        StorageError: names a file that cannot be read.
    """
    step = on_step or (lambda _: None)
    step("Reading footers")
    totals = {t.name: read_totals(t, on_file) for t in dataset.tables}
    step("Sampling users")
    sample = sample_dataset(dataset, totals, share=share, budget_bytes=sample_bytes)
    proposals = []
    for table in dataset.tables:
        if table.role == TableRole.FEATURES.value:
            continue
        tuner = Tuner(
            sample_tables(sample, table.role, totals[table.name].rows / max(1, totals[table.name].files)),
            Encoding.from_properties(table.properties),
            grid=grid or Grid(),
            tolerance=tolerance,
            on_trial=lambda n, name=table.name: step(f"Tuning {name}: setting {n}"),  # type: ignore[misc]
        )
        proposals.append(propose(table.name, tuner, tuner.search(), properties=table.properties))
    return proposals


def sample_tables(sample: LogSample, role: str, rows_per_file: float) -> list[pa.Table]:
    """The sample's rows as files of one of the dataset's tables, as many rows in each as the table's files hold.

    Args:
        sample: Whole users.
        role: The table's role.
        rows_per_file: Mean rows of its files.
    """
    of_requests = role == TableRole.REQUESTS.value
    rows = sample.num_requests if of_requests else sample.num_impressions
    pieces = max(1, round(rows / max(1.0, rows_per_file)))
    if role == TableRole.LOGS.value:
        flat_bytes = sample.requests.nbytes * sample.num_impressions / max(1, sample.num_requests)
        pieces = max(pieces, round(flat_bytes / _FLAT_BYTES))
    groups = sample.groups(pieces)[:_MOST_FILES] if 1 < pieces <= sample.num_users else [sample]
    if role == TableRole.LOGS.value:
        return [_flat_table(group) for group in groups[:1]]
    return [group.requests if of_requests else group.impression_table() for group in groups]


def _flat_table(sample: LogSample) -> pa.Table:
    order = np.arange(sample.num_impressions, dtype=np.int64)
    return pa.Table.from_batches(list(sample.flat(order)), sample.flat_schema())
