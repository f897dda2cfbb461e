"""EB-NeRD news impressions as a nested training log: one row per request with its candidates and the user's history.

Data: Ekstra Bladet News Recommendation Dataset (RecSys Challenge 2024), files ``behaviors.parquet`` and
``history.parquet`` as published. A candidate is labelled 1 when it was clicked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_storage.dedup.expand import inverse_from_lengths, offsets_from_lengths
from dedup_storage.errors import InputError
from dedup_storage.schema import ColumnCheck, LogSchema, SequenceColumn

__all__ = ["log_schema", "write_log"]

CANDIDATES, CLICKED, LABELS = "article_ids_inview", "article_ids_clicked", "inview_clicked"
HISTORY = ("article_id_fixed", "impression_time_fixed", "read_time_fixed", "scroll_percentage_fixed")


def log_schema() -> LogSchema:
    """The meaning of the log's columns."""
    return LogSchema(
        user="user_id",
        request=("impression_id",),
        item="candidate_id",
        event_time="impression_time",
        candidates={CANDIDATES: "candidate_id", LABELS: "clicked"},
        sequences=tuple(SequenceColumn(column=c, group="history", times=c == "impression_time_fixed") for c in HISTORY),
        labels=("clicked",),
        checks={"clicked": ColumnCheck(not_null=True, minimum=0, maximum=1)},
    )


def write_log(source: Path, directory: Path) -> int:
    """Write the log as one Parquet file.

    Args:
        source: Directory of the two published files.
        directory: Made if need be.

    Returns:
        Its requests.

    Raises:
        InputError: a file is missing.
    """
    tables = []
    for name in ("behaviors.parquet", "history.parquet"):
        if not (source / name).is_file():
            raise InputError(f"EB-NeRD's file {name} is not there", expected=str(source / name))
        tables.append(pq.read_table(source / name))
    behaviours, history = tables
    place = pc.index_in(behaviours["user_id"], history["user_id"].combine_chunks())
    joined = behaviours.append_column(LABELS, _labels(behaviours))
    for column in HISTORY:
        joined = joined.append_column(column, history[column].combine_chunks().take(place.combine_chunks()))
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(joined, directory / "part-00000.parquet", compression="zstd")
    return joined.num_rows


def _labels(behaviours: pa.Table) -> pa.Array:
    """For each candidate whether it is among the clicked ones of its request: lists of int8 0 or 1."""
    pairs, lengths = [], []
    for column in (CANDIDATES, CLICKED):
        lists = behaviours[column].combine_chunks()
        lengths.append(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False))
        rows = inverse_from_lengths(lengths[-1])
        # Article ids are 32-bit: request and article make one 64-bit number.
        pairs.append((rows << 32) | pc.list_flatten(lists).to_numpy().astype(np.uint32))
    clicked = np.isin(pairs[0], pairs[1]).astype(np.int8)
    return pa.LargeListArray.from_arrays(offsets_from_lengths(lengths[0]), pa.array(clicked))
