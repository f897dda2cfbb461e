"""Feature groups, evolved schemas and units cut at row groups, by PyIceberg alone."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyiceberg.table.name_mapping import create_mapping_from_schema
from pyiceberg.transforms import BucketTransform
from pyiceberg.types import DateType, DoubleType, LongType

from dedup_storage.errors import StorageError, VersionNotFoundError
from dedup_storage.lake.iceberg.metadata import MEMBERS_PREFIX
from dedup_storage.lake.members import Members
from dedup_storage.layout import DEFINITION, PROPERTY_PREFIX, ROLE_PROPERTY, Layout
from dedup_storage.reader import DedupDataset
from dedup_storage.reader.open import iceberg
from dedup_storage.reader.progress import Progress
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
        update.add_column("joined", DateType(), default_value=dt.date(2024, 2, 29))
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
        # Rows that are older than a column have its default there, as for every other reader.
        assert batch["joined"].decode() == [19_782] * batch.num_requests
        assert str(batch["age"].values.dtype) == "torch.float64"
        assert str(batch["position"].values.dtype) == "torch.int64"
        costs += batch["cost"].decode()
    assert sorted(c for c in costs if c is not None) == sorted(
        c for c in log.impressions["price"].to_pylist() if c is not None
    )
    assert "price" in next(iter(DedupDataset(name, lake.settings, version=1)))


def test_files_of_another_writer_are_read_by_the_tables_mapping_and_partitions(lake: Lake, name: str) -> None:
    """As in a log that was taken over: columns renamed since, and dates that are in the folders' names alone."""
    log = make_log(users=3)
    lake.write(name, log, buckets=1, layout=Layout.FLAT)
    table = lake.table(name, "logs")
    for file in table.inspect.files()["file_path"].to_pylist():
        rows = pq.read_table(file.removeprefix("file://")).drop_columns("event_date")
        bare = pa.schema([pa.field(f.name, f.type) for f in rows.schema])
        pq.write_table(
            pa.table(dict(zip(bare.names, rows.columns, strict=True)), schema=bare), file.removeprefix("file://")
        )
    with table.transaction() as change:
        change.set_properties(
            {"schema.name-mapping.default": create_mapping_from_schema(table.schema()).model_dump_json()}
        )
    with table.update_schema() as update:
        update.rename_column("price", "cost")
    table.append(table.scan().to_arrow().slice(0, 0))
    lake.tag(name, 2)
    found = pa.concat_tables(
        batch.to_arrow().select(["event_date", "cost"]) for batch in DedupDataset(name, lake.settings)
    )
    stored = log.impressions.select(["event_date", "price"]).rename_columns(["event_date", "cost"])
    order = [("event_date", "ascending"), ("cost", "ascending")]
    assert found.sort_by(order).to_pylist() == stored.sort_by(order).to_pylist()
    day = DedupDataset(name, lake.settings, filters={"event_date": "2022-01-08"})
    assert day.plan.num_impressions == stored["event_date"].cast(pa.int32()).to_pylist().count(19_000)


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


def test_files_of_former_partitions_have_no_bucket(lake: Lake, name: str) -> None:
    """Whoever asks for some buckets would be given the users of all of them."""
    log = make_log(users=4)
    lake.write(name, log, buckets=2, layout=Layout.FLAT)
    table = lake.table(name, "logs")
    with table.update_spec() as update:
        update.remove_field("user_bucket")
        update.add_field("user_id", BucketTransform(8), "eighths")
    table.append(table.scan().to_arrow().slice(0, 1))
    lake.tag(name, 2)
    one = DedupDataset(name, lake.settings, version=1, filters={"buckets": [1]})
    assert 0 < one.plan.num_requests < 20
    with pytest.raises(StorageError, match=r"not divided into those of .*; expected bucket\[2\] of user_id"):
        DedupDataset(name, lake.settings, filters={"buckets": [1]})


def test_a_column_has_the_type_of_the_table_that_it_is_read_of(lake: Lake, name: str) -> None:
    """A log's table may still have a column of another version, of the name of a group's."""
    log = make_log(users=2)
    spec = lake.write(name, log)
    score = log.requests.select(["user_id", "request_id", "event_date"])
    score = score.append_column("score", pa.array([0.5] * score.num_rows))
    table = lake.create(f"{name}.fg_score", score.schema, spec, {ROLE_PROPERTY: "features"})
    lake.append(table, score, ["user_id", "request_id"])
    lake.tag(name, 1, ["fg_score"])
    plan = DedupDataset(name, lake.settings, columns=["score", "age"]).plan
    stale = replace(plan.source.requests, fields={**plan.source.requests.fields, "score": (99, pa.string())})
    left = replace(plan, source=replace(plan.source, requests=stale))
    empty = left.empty_batch(Progress(), None)
    assert {n: c.values.dtype for n, c in empty.requests.items()} == {
        "user_id": torch.int64, "request_id": torch.int64, "score": torch.float64, "age": torch.float32
    }  # fmt: skip


@pytest.mark.parametrize("table", ["impressions", "fg_old", "requests", "a list of the tables"])
def test_a_version_published_while_a_dataset_is_opened_is_read_whole_or_not_at_all(
    lake: Lake, name: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log(users=4)
    spec = lake.write(name, log, buckets=1)
    rows = log.requests.select(["user_id", "request_id", "event_date"])

    def add_group(group: str) -> None:
        data = rows.append_column(group, pa.array(range(rows.num_rows), pa.int64()))
        made = lake.create(f"{name}.fg_{group}", data.schema, spec, {ROLE_PROPERTY: "features"})
        text = f'{{"name": "{group}", "columns": [{{"name": "{group}", "type": "bigint"}}]}}'
        made.append(data, snapshot_properties={PROPERTY_PREFIX + DEFINITION: text})

    def note(version: int, *tables: str) -> None:
        members = Members(version - 1, tables).to_json()
        with lake.table(name, "requests").transaction() as change:
            change.set_properties({f"{MEMBERS_PREFIX}v{version}": members})

    add_group("old")
    lake.tag(name, 1, ["fg_old"])
    note(1, "requests", "impressions", "fg_old")
    published: list[int] = []

    def publish() -> None:
        if not published:
            published.append(2)
            add_group("new")
            note(2, "requests", "impressions", "fg_old", "fg_new")
            lake.tag(name, 2)

    load, listed = iceberg._load_table, iceberg._list_tables

    def loaded(catalog: Any, identifier: Any) -> Any:
        found = load(catalog, identifier)
        if identifier[-1] == table:
            publish()
        return found

    def told(catalog: Any, dataset: str) -> Any:
        found = listed(catalog, dataset)
        if table not in ("impressions", "fg_old", "requests"):
            publish()
        return found

    monkeypatch.setattr(iceberg, "_load_table", loaded)
    monkeypatch.setattr(iceberg, "_list_tables", told)
    cut = iceberg.iceberg_cut(name, lake.settings)
    groups = {"fg_old"} if cut.version == 1 else {"fg_old", "fg_new"}
    assert set(cut.tables) == {"requests", "impressions"} | groups
    assert published
    # A version whose table lacks its name is told, never read without it.
    lake.table(name, "fg_old").manage_snapshots().remove_tag("v2").commit()
    with pytest.raises(VersionNotFoundError, match=f"version 2 of {name} lacks the table fg_old; .* check --dataset"):
        iceberg.iceberg_cut(name, lake.settings, 2)
