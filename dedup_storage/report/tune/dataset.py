"""Tuning every table of a dataset on one draw of users."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from dedup_storage.dedup.hashing import hash_column
from dedup_storage.dedup.mixing import mix64
from dedup_storage.layout import TableRole
from dedup_storage.report.draw.dataset import draw_dataset, stored_rows
from dedup_storage.report.draw.select import DRAW_BYTES, refuse_idle_budget
from dedup_storage.report.draw.users import LogDraw
from dedup_storage.report.parquet.encoding import Encoding
from dedup_storage.report.parquet.footers import OnFile, Totals
from dedup_storage.report.parquet.tables import DatasetFiles, read_totals
from dedup_storage.report.tune.proposal import Proposal, propose
from dedup_storage.report.tune.search import Grid, Tuner

__all__ = ["draw_tables", "tune_dataset"]

# Rows of a flat table are repeated in memory: its tuner takes a part of the draw.
_FLAT_BYTES = 256 * 1024**2
_MOST_FILES = 8


def tune_dataset(
    dataset: DatasetFiles,
    *,
    share: float | None = None,
    draw_bytes: int = DRAW_BYTES,
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
    refuse_idle_budget(share, draw_bytes)
    step = on_step or (lambda _: None)
    step("Reading footers")
    totals = {t.name: read_totals(t, on_file) for t in dataset.tables}
    step("Drawing users")
    drawn = _drawn(dataset, totals, share, draw_bytes)
    proposals = []
    for table in dataset.tables:
        if table.name not in drawn:
            continue
        tuner = Tuner(
            drawn[table.name],
            Encoding.from_properties(table.properties),
            grid=grid or Grid(),
            tolerance=tolerance,
            on_trial=lambda n, name=table.name: step(f"Tuning {name}: setting {n}"),  # type: ignore[misc]
        )
        proposals.append(propose(table.name, tuner, tuner.search(), properties=table.properties))
    return proposals


def _drawn(
    dataset: DatasetFiles, totals: dict[str, Totals], share: float | None, draw_bytes: int
) -> dict[str, list[pa.Table]]:
    """Rows of a draw as files of each of the log's own tables, as many rows in each as the table's files hold."""
    own = {t.name: t for t in dataset.tables if t.role != TableRole.FEATURES.value}
    per_file = {name: totals[name].rows / max(1, totals[name].files) for name in own}
    if not dataset.spec.events:
        draw = draw_dataset(dataset, totals, share=share, budget_bytes=draw_bytes)
        return {name: draw_tables(draw, table.role, per_file[name]) for name, table in own.items()}
    user = dataset.spec.schema_.user
    rows = stored_rows(dataset, totals, share=share, budget_bytes=draw_bytes)
    return {name: _files(table, user, per_file[name]) for name, table in rows.items() if name in own}


def _files(rows: pa.Table, user: str, rows_per_file: float) -> list[pa.Table]:
    """Stored rows of whole users as files: random groups of the users, as ``LogDraw.groups`` makes them."""
    pieces = max(1, round(rows.num_rows / max(1.0, rows_per_file)))
    numbers = mix64(mix64(hash_column(rows[user]))) % np.uint64(pieces)
    return [rows.filter(pa.array(numbers == piece)) for piece in np.unique(numbers)[:_MOST_FILES]]


def draw_tables(draw: LogDraw, role: str, rows_per_file: float) -> list[pa.Table]:
    """The draw's rows as files of one of the dataset's tables, as many rows in each as the table's files hold.

    Args:
        draw: Whole users.
        role: The table's role.
        rows_per_file: Mean rows of its files.
    """
    of_requests = role == TableRole.REQUESTS.value
    rows = draw.num_requests if of_requests else draw.num_impressions
    pieces = max(1, round(rows / max(1.0, rows_per_file)))
    if role == TableRole.LOGS.value:
        flat_bytes = draw.requests.nbytes * draw.num_impressions / max(1, draw.num_requests)
        pieces = max(pieces, round(flat_bytes / _FLAT_BYTES))
    groups = draw.groups(pieces)[:_MOST_FILES] if 1 < pieces <= draw.num_users else [draw]
    if role == TableRole.LOGS.value:
        return [_flat_table(group) for group in groups[:1]]
    return [group.requests if of_requests else group.impression_table() for group in groups]


def _flat_table(draw: LogDraw) -> pa.Table:
    order = np.arange(draw.num_impressions, dtype=np.int64)
    return pa.Table.from_batches(list(draw.flat(order)), draw.flat_schema())
