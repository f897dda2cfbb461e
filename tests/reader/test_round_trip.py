"""Behaviour 30: the deduplicated batches hold exactly the flat log's rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from dedup_storage.layout import Layout
from dedup_storage.reader import DedupBatch, DedupDataset
from tests.reader.lake import Lake, Log, make_log

EPOCH = 1_000_000


def flat_rows(batch: DedupBatch) -> list[dict[str, Any]]:
    """A batch's impressions with their request's values, one by one."""
    columns = {name: batch[name].decode() for name in batch}
    inverse = batch.inverse_indices.tolist()
    grains = {name: grain.value for name, grain in batch.grains.items()}
    return [
        {name: columns[name][inverse[b] if grains[name] == "request" else b] for name in columns}
        for b in range(batch.num_impressions)
    ]


def expected_rows(log: Log) -> list[dict[str, Any]]:
    """The flat log's rows, times as the batch holds them."""
    flat = log.flat
    times = flat["event_time"].cast(pa.int64())
    days = flat["event_date"].cast(pa.int32())
    flat = flat.set_column(flat.column_names.index("event_time"), "event_time", times)
    return flat.set_column(flat.column_names.index("event_date"), "event_date", days).to_pylist()


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["user_id"], row["request_id"], row["position"])


@pytest.mark.parametrize("string_users", [False, True])
@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("layout", [Layout.SPLIT, Layout.FLAT])
def test_30_batches_expand_to_the_flat_rows(
    lake: Lake, name: str, layout: Layout, files: int, string_users: bool
) -> None:
    log = make_log(string_users=string_users)
    lake.write(name, log, layout=layout, files=files, row_group_rows=7)
    compare(log, DedupDataset(name, lake.settings, batch_size=20))


def compare(log: Log, dataset: DedupDataset) -> None:
    """Every row of the log is delivered once, value for value."""
    rows = [row for batch in dataset for row in flat_rows(batch)]
    found = sorted(rows, key=key)
    wanted = sorted(expected_rows(log), key=key)
    assert len(found) == len(wanted)
    for have, want in zip(found, wanted, strict=True):
        assert {k: repr(v) for k, v in have.items()} == {k: repr(want[k]) for k in have}
    assert set(found[0]) == set(wanted[0])


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("tokens", [6, 1_000])
def test_30_batches_over_several_windows_expand_to_the_flat_rows(
    lake: Lake, name: str, tokens: int, shuffle: bool
) -> None:
    """Lists that are gathered by window (6 tokens) and those that are copied one by one (1,000), with null elements."""
    log = make_log(users=8, requests_per_user=4, tokens=tokens, days=1, string_users=True)
    rows = log.requests["history"].to_pylist()
    holed = [row if row is None else [None if i % 5 == 2 else v for i, v in enumerate(row)] for row in rows]
    place = log.requests.column_names.index("history")
    holed_column = pa.array(holed, pa.list_(pa.int64()))
    log = replace(log, requests=log.requests.set_column(place, "history", holed_column))
    lake.write(name, log, buckets=2, files=2, row_group_rows=7)
    # Batches smaller than the vocabularies, windows smaller than the split.
    dataset = DedupDataset(
        name, lake.settings, batch_size=5, buffer_bytes=4_000 if tokens < 100 else 200_000, splits=1, shuffle=shuffle
    )
    assert len(dataset.order().splits[0].windows) > 1
    compare(log, dataset)
