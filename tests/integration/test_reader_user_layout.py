"""The reader on layout ``user`` as Spark writes it, in both formats: bit for bit the lists of split layout."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.reader import Column, DedupDataset
from dedup_storage.sources.raw import RawLog
from tests.spark.helpers import frame
from tests.spark.odd_lists import TYPES, odd_rows, odd_schema

LISTS = ("seen", "paid", "age", "words")


def lists(column: Column) -> list[Any]:
    """Rows of a list column, numbers by their bits."""
    if column.vocabulary is not None:
        return column.decode()
    offsets, values = column.offsets, column.values.numpy()
    assert offsets is not None
    known = None if column.element_valid is None else column.element_valid.tolist()
    rows = []
    for row, (a, b) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        there = column.valid is None or bool(column.valid[row])
        # Whether elements are told at all is the batch's business.
        missing = [] if known is None else [place for place, valid in enumerate(known[a:b]) if not valid]
        rows.append((values[a:b].tobytes(), missing) if there else None)
    return rows


def delivered(settings: Settings, name: str, **options: Any) -> dict[Any, Any]:
    """What each request was delivered with."""
    found = {}
    for batch in DedupDataset(name, settings, columns=[*LISTS, "item"], batch_size=20, **options):
        columns = [lists(batch[column]) for column in LISTS]
        items, offsets = batch["item"].decode(), batch.offsets.tolist()
        for row, key in enumerate(zip(batch["u"].decode(), batch["r"].decode(), strict=True)):
            assert key not in found
            found[key] = ([c[row] for c in columns], items[offsets[row] : offsets[row + 1]])
    return found


@pytest.mark.long
def test_layouts_deliver_the_same(spark: SparkSession, settings: Settings, name: str) -> None:
    lakes = {form: settings.model_copy(update={"format": form}) for form in ("iceberg", "delta")}
    written = {}
    for layout, form in (("split", "iceberg"), ("user", "iceberg"), ("user", "delta")):
        days = [RawLog.from_frame(frame(spark, odd_rows([n], seed=1), TYPES), odd_schema()) for n in (1, 3, 2)]
        whole = RawLog.from_frame(frame(spark, odd_rows([1, 2, 3], seed=1), TYPES), odd_schema())
        ds = Dataset.create(spark, lakes[form], f"{name}_{layout}_{form}", whole.schema, whole, layout=layout)
        for day in days:
            ds.write(day, gate=False)
        written[layout, form] = ds
    for form in lakes:
        assert [group.newest_first for group in written["user", form].spec.events] == [False, True]
    for options in (
        {},
        {"version": 2, "shuffle": False},
        {"across_dates": True, "together": 4, "histories": "shared", "buffer_bytes": 4096},
        {"filters": {"start": "2024-01-02", "users": ["user 1", "user 4"]}},
    ):
        expected = delivered(settings, f"{name}_split_iceberg", **options)
        assert len(expected) > 3
        for form, lake in lakes.items():
            assert delivered(lake, f"{name}_user_{form}", **options) == expected, form
