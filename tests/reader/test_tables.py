"""Feature groups, evolved schemas and units cut at row groups, by PyIceberg alone."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pyiceberg.types import DoubleType, LongType

from dedup_storage.layout import ROLE_PROPERTY, Layout
from dedup_storage.reader import DedupDataset
from tests.reader.lake import Lake, make_log


@pytest.mark.parametrize("layout", [Layout.SPLIT, Layout.FLAT])
@pytest.mark.parametrize("grain", ["request", "impression"])
@pytest.mark.parametrize("complete", [True, False])
def test_feature_groups_are_joined_by_key(lake: Lake, name: str, layout: Layout, grain: str, complete: bool) -> None:
    log = make_log()
    spec = lake.write(name, log, layout=layout, files=2)
    base = log.requests if grain == "request" else log.impressions
    keys = ["user_id", "request_id", *(["position"] if grain == "impression" else [])]
    values = {tuple(r[k] for k in keys): i for i, r in enumerate(base.select(keys).to_pylist())}
    feature = base.select([*keys, "event_date"]).append_column("score", pa.array(range(base.num_rows), pa.int64()))
    feature = feature.append_column("list", pa.array([[i, i] for i in range(base.num_rows)], pa.list_(pa.int64())))
    if not complete:
        feature = feature.filter(pa.array([i % 3 > 0 for i in range(base.num_rows)]))
    table = lake.create(f"{name}.fg_score", feature.schema, spec, {ROLE_PROPERTY: "features"})
    lake.append(table, feature, keys, files=1 if complete else 2)
    lake.tag(name, 1, ["fg_score"])
    seen = 0
    for batch in DedupDataset(name, lake.settings, batch_size=15):
        assert batch.grains["score"].value == grain
        inverse = batch.inverse_indices.tolist()
        owners = range(batch.num_requests) if grain == "request" else inverse
        users, requests = batch["user_id"].decode(), batch["request_id"].decode()
        positions = batch["position"].decode()
        for row, owner in enumerate(owners):
            key = (users[owner], requests[owner], *([positions[row]] if grain == "impression" else []))
            want = values[key] if complete or values[key] % 3 > 0 else None
            assert batch["score"].decode()[row] == want
            assert batch["list"].decode()[row] == (None if want is None else [want, want])
            seen += 1
    assert seen == base.num_rows


def test_renamed_added_and_widened_columns_are_read_by_field_id(lake: Lake, name: str) -> None:
    log = make_log()
    lake.write(name, log)
    with lake.table(name, "requests").update_schema() as update:
        update.add_column("bonus", LongType())
        update.update_column("age", field_type=DoubleType())
    with lake.table(name, "impressions").update_schema() as update:
        update.rename_column("price", "cost")
        update.update_column("position", field_type=LongType())
    table = lake.table(name, "impressions")
    table.append(table.scan().to_arrow().slice(0, 0))
    table = lake.table(name, "requests")
    table.append(table.scan().to_arrow().slice(0, 0))
    lake.tag(name, 2)
    costs = []
    for batch in DedupDataset(name, lake.settings):
        # Another tool's column: with one that it renamed, all that are there are shown.
        assert batch["bonus"].decode() == [None] * batch.num_requests
        assert str(batch["age"].values.dtype) == "torch.float64"
        assert str(batch["position"].values.dtype) == "torch.int64"
        costs += batch["cost"].decode()
    assert sorted(c for c in costs if c is not None) == sorted(
        c for c in log.impressions["price"].to_pylist() if c is not None
    )
    assert "price" in next(iter(DedupDataset(name, lake.settings, version=1)))


@pytest.mark.parametrize("layout", [Layout.SPLIT, Layout.FLAT])
def test_a_large_file_is_several_units_cut_at_its_row_groups(lake: Lake, name: str, layout: Layout) -> None:
    log = make_log(users=40, days=1, tokens=60, candidates=2)
    lake.write(name, log, layout=layout, buckets=1, row_group_rows=20)
    dataset = DedupDataset(name, lake.settings, batch_size=10)
    assert len(dataset.plan.units) > 2
    found = [request for batch in dataset for request in batch["request_id"].decode()]
    assert sorted(found) == sorted(log.requests["request_id"].to_pylist())
    items = [item for batch in dataset for item in batch["item_id"].decode()]
    assert sorted(items) == sorted(log.impressions["item_id"].to_pylist())
