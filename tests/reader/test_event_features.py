"""Features of events: lists parallel to the histories, whatever of their events is computed, in plain Python."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from dedup_storage.errors import SchemaError, StorageError, UsageError
from dedup_storage.lake.groups import FeatureColumn, FeatureGroup, FeatureSource, SourceKind, group_table
from dedup_storage.layout import DEFINITION, PROPERTY_PREFIX, ROLE_PROPERTY, DatasetSpec
from dedup_storage.reader import DedupBatch, DedupDataset
from dedup_storage.schema import Grain
from tests.reader.lake import Lake, ddl
from tests.reader.user_layout import make_histories, write_user

Lists = dict[int, list[Any] | None]
# Positions of the group ``views`` that are computed.
COMPUTED = 40


def stored(lake: Lake, name: str, table: str) -> pa.Table:
    """Rows of a table as its files have them: PyIceberg reads a missing list of structs as an empty one."""
    tasks = lake.table(name, table).scan().plan_files()
    return pa.concat_tables([pq.ParquetFile(t.file.file_path.removeprefix("file://")).read() for t in tasks])


def add(lake: Lake, name: str, spec: DatasetSpec, group: str, sequence: int, columns: dict[str, pa.Array]) -> None:
    """A feature group of the events of a sequence group, as version 2 has it."""
    events = spec.events[sequence]
    kinds = {c: ddl(v.type) for c, v in columns.items()}
    definition = FeatureGroup(
        name=group, table=f"fe{sequence}_{group}", grain=Grain.EVENT, sequence=events.name,
        columns=tuple(FeatureColumn(name=c, type=kind) for c, kind in kinds.items()),
        source=FeatureSource(kind=SourceKind.FRAME), missing="null",
    )  # fmt: skip
    wanted = group_table(spec, definition)
    rows = stored(lake, name, events.table)
    for column, values in columns.items():
        rows = rows.append_column(column, values)
    if sequence == 0:
        rows = rows.filter(pc.less(rows[events.position_column], COMPUTED))
    rows = rows.select(wanted.columns).sort_by([(c, "ascending") for c in wanted.sort_columns])
    properties = {ROLE_PROPERTY: "features", "write.parquet.row-group-limit": "50"}
    table = lake.create(f"{name}.{definition.table}", rows.schema, spec.partitioned(definition.table), properties)
    table.append(rows, snapshot_properties={PROPERTY_PREFIX + DEFINITION: definition.to_json()})


def expected(lake: Lake, name: str, spec: DatasetSpec, sequence: int, column: str, values: pa.Array) -> Lists:
    """The lists of a feature by request, one after the other."""
    group = spec.events[sequence]
    events = stored(lake, name, group.table)
    owners, places = events[spec.schema_.user].to_pylist(), events[group.position_column].to_pylist()
    known = dict(zip(zip(owners, places, strict=True), values.to_pylist(), strict=True))
    found: Lists = {}
    for row in stored(lake, name, "requests").to_pylist():
        runs, own = row[group.runs_column], row[group.columns[0]]
        if runs is None:
            found[row["request_id"]] = None if own is None else [None] * len(own)
            continue
        at = [p for run in runs for p in range(run["start"], run["start"] + run["length"])]
        shown = [known[row["user_id"], p] if sequence or p < COMPUTED else None for p in at]
        found[row["request_id"]] = shown[::-1] if group.newest_first else shown
    return found


@pytest.fixture(scope="session")
def features(lake: Lake) -> tuple[Lake, dict[str, Lists]]:
    """A dataset with two features of one sequence group, the newest events not computed, and one of another."""
    name = "event_features"
    spec = write_user(lake, name, make_histories(6, 12), row_group_rows=64)
    views, buys = (stored(lake, name, group.table) for group in spec.events)
    columns = {
        "twice": pc.if_else(pc.equal(pc.bit_wise_and(views["items"], 3), 0), None, pc.multiply(views["items"], 2)),
        "word": pc.binary_join_element_wise(views["words"], "!", ""),
    }
    half = {"half": pc.divide(pc.cast(buys["buys"], pa.float64()), 2)}
    add(lake, name, spec, "of_views", 0, columns)
    add(lake, name, spec, "of_buys", 1, half)
    lake.tag(name, 2)
    told = {c: expected(lake, name, spec, 0, c, v) for c, v in columns.items()}
    return lake, told | {"half": expected(lake, name, spec, 1, "half", half["half"])}


def lists(batch: DedupBatch, columns: tuple[str, ...]) -> dict[str, Lists]:
    """Lists of a batch by request."""
    keys = batch["request_id"].decode()
    return {c: dict(zip(keys, batch[c].decode(), strict=True)) for c in columns}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"buffer_bytes": 1024, "shuffle": False, "splits": 1},
        {"across_dates": True, "buffer_bytes": 4096},
        {"history_length": 3},
        {"columns": ("twice", "half")},
        {"columns": ("half", "word"), "across_dates": True, "history_length": 2},
        {"unit": "tokens", "tokens": "items", "batch_size": 150},
        {"arrow_transform": lambda requests, impressions: (requests, impressions)},
        {"histories": "shared"},
        {"histories": "shared", "across_dates": True, "history_length": 3, "together": 4, "buffer_bytes": 4096},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
def test_lists_stand_beside_the_histories(features: tuple[Lake, dict[str, Lists]], options: dict[str, Any]) -> None:
    lake, told = features
    columns = tuple(c for c in told if c in options.get("columns", told))
    found: dict[str, Lists] = {c: {} for c in columns}
    whole = {"batch_size": 16, "seed": 3, **options}
    for batch in DedupDataset("event_features", lake.settings, **whole):
        for column, part in lists(batch, columns).items():
            found[column] |= part
        if "columns" not in options:
            assert batch["twice"].offsets.tolist() == batch["items"].offsets.tolist()
    most = options.get("history_length")
    for column in columns:
        front = column == "half"
        cut = {k: v if v is None or most is None else v[:most] if front else v[-most:] for k, v in told[column].items()}
        assert found[column] == cut, column
    assert any(v and None in v for v in told["word"].values())


def test_workers_and_versions(features: tuple[Lake, dict[str, Lists]]) -> None:
    lake, told = features
    found: Lists = {}
    dataset = DedupDataset("event_features", lake.settings, batch_size=16, splits=2)
    for batch in DataLoader(dataset, batch_size=None, num_workers=2):
        found |= lists(batch, ("twice",))["twice"]
    assert found == told["twice"]
    before = next(iter(DedupDataset("event_features", lake.settings, version=1)))
    assert not {"twice", "word", "half"} & {*before}


def test_what_is_no_list_of_the_log_is_refused(features: tuple[Lake, dict[str, Lists]]) -> None:
    lake, _ = features
    with pytest.raises(SchemaError, match="cannot be measured in tokens of the column twice"):
        DedupDataset("event_features", lake.settings, unit="tokens", tokens="twice")
    with pytest.raises(SchemaError, match="filters name the column twice"):
        DedupDataset("event_features", lake.settings, filters={"twice": [3]})
    batch = next(iter(DedupDataset("event_features", lake.settings)))
    with pytest.raises(UsageError, match="grain of a batch event is not known"):
        batch.to_arrow("event")


def test_a_gap_among_computed_events_is_refused(lake: Lake) -> None:
    name = "event_gap"
    spec = write_user(lake, name, make_histories(2), writes=1, buckets=1)
    items = stored(lake, name, "events_views")["items"]
    add(lake, name, spec, "gap", 0, {"same": items})
    for task in lake.table(name, "fe0_gap").scan().plan_files():
        path = task.file.file_path.removeprefix("file://")
        rows = pq.ParquetFile(path).read()
        pq.write_table(rows.filter(pc.not_equal(rows["position"], 17)), path)
    lake.tag(name, 2)
    with pytest.raises(StorageError, match="fe0_gap does not hold"):
        DedupDataset(name, lake.settings)
