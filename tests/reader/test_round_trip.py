"""Behaviour 30: the deduplicated batches hold exactly the flat log's rows."""

from __future__ import annotations

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
@pytest.mark.parametrize("layout", list(Layout))
def test_batches_expand_to_the_flat_rows(lake: Lake, name: str, layout: Layout, files: int, string_users: bool) -> None:
    log = make_log(string_users=string_users)
    lake.write(name, log, layout=layout, files=files, row_group_rows=7)
    rows = [row for batch in DedupDataset(name, lake.settings, batch_size=20) for row in flat_rows(batch)]
    found = sorted(rows, key=key)
    wanted = sorted(expected_rows(log), key=key)
    assert len(found) == len(wanted)
    for have, want in zip(found, wanted, strict=True):
        assert {k: repr(v) for k, v in have.items()} == {k: repr(want[k]) for k in have}
    assert set(found[0]) == set(wanted[0])
