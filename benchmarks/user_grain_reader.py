"""Reading layout ``user`` against split layout: impressions a second, tokens decoded in an epoch, bytes of batches.

One log of sliding histories in both layouts, with segments by day and without dates, written by PyIceberg alone;
``--log journey`` takes baskets of the Complete Journey (``small``: a tenth of the households) by month and without
dates, written by Spark. Tokens are counted where Parquet's decoder hands them out: list elements of split layout, rows
of the events' tables of layout ``user``, whatever was asked for. The floor is each event once.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import load_catalog
from pyiceberg.transforms import BucketTransform, IdentityTransform

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._harness import Report, in_turn, lake, parse_kept, written
from dedup_storage.config import Settings
from dedup_storage.lake.iceberg.catalog import pyiceberg_properties
from dedup_storage.layout import (
    ROLE_PROPERTY,
    SPEC_PROPERTY,
    DatasetSpec,
    Layout,
    ProposedGroup,
    TableRole,
    version_tag,
)
from dedup_storage.reader import DedupDataset
from dedup_storage.schema import DateGrain, LogSchema

LISTS = ("item_ids", "shops", "times")
BUCKETS, DAYS, FIRST_DAY, SLIDE, CANDIDATES = 4, 10, 19_000, 10, 4
SCALES = {
    "small": {"users": 400, "requests": 10, "tokens": 512},
    "full": {"users": 4_000, "requests": 20, "tokens": 1_024},
}
# Households of the Complete Journey, and the most events of a list.
SHARES, MOST_EVENTS = {"small": 0.1, "full": 1.0}, 512
BATCH, GAIN, MOST_TOKENS = 512, 3.0, 1.2
SHARED = {"histories": "shared", "together": 10}


def log(users: int, requests: int, tokens: int) -> tuple[pa.Table, pa.Table, pa.Table, pa.Table]:
    """Requests with lists, their runs in the users' lists, events, impressions."""
    rng = np.random.default_rng(0)
    length = tokens + SLIDE * (requests - 1)
    user, number = np.repeat(np.arange(users), requests), np.tile(np.arange(requests), users)
    day = (number * DAYS // requests).astype(np.int32) + FIRST_DAY
    keys = {
        "user_id": pa.array(user),
        "request_id": pa.array(np.arange(len(user))),
        "event_date": pa.array(day, pa.date32()),
        "event_time": pa.array(day.astype(np.int64) * 86_400_000_000 + number, pa.timestamp("us", tz="UTC")),
    }
    values = {name: rng.integers(0, 100_000, users * length) for name in LISTS}
    place = ((user * length + number * SLIDE)[:, np.newaxis] + np.arange(tokens)).ravel()
    offsets = pa.array(np.arange(len(user) + 1) * tokens, pa.int32())
    lists = {name: pa.ListArray.from_arrays(offsets, pa.array(own[place])) for name, own in values.items()}
    runs = pa.StructArray.from_arrays(
        [pa.array(number * SLIDE), pa.array(np.full(len(user), tokens), pa.int32())], ["start", "length"]
    )
    windows = pa.ListArray.from_arrays(pa.array(np.arange(len(user) + 1), pa.int32()), runs)
    position = np.tile(np.arange(length), users)
    events = {
        "user_id": pa.array(np.repeat(np.arange(users), length)),
        "position": pa.array(position),
        "epoch": pa.array(np.full(len(position), FIRST_DAY - FIRST_DAY % 30, np.int32), pa.date32()),
        **{name: pa.array(own) for name, own in values.items()},
    }
    owner = pa.array(np.repeat(np.arange(len(user)), CANDIDATES))
    impressions = {
        **{name: keys[name].take(owner) for name in ("user_id", "request_id", "event_date")},
        "position": pa.array(np.tile(np.arange(CANDIDATES), len(user)), pa.int32()),
        "item_id": pa.array(rng.integers(0, 100_000, len(owner))),
        "label": pa.array(rng.integers(0, 2, len(owner)), pa.int32()),
    }
    requests_table = pa.table({**keys, **lists})
    return requests_table, pa.table({"views_runs": windows}), pa.table(events), pa.table(impressions)


def write(settings: Settings, name: str, layout: Layout, grain: DateGrain, tables: tuple[pa.Table, ...]) -> None:
    """Version 1 of a dataset."""
    requests, runs, events, impressions = tables
    schema = LogSchema.from_dict(
        {
            "user": "user_id",
            "request": ["request_id"],
            "item": "item_id",
            "position": "position",
            "event_time": "event_time",
            "labels": ["label"],
            "sequences": [{"column": column, "group": "views"} for column in LISTS],
            "columns": {"event_date": "request"},
        }
    )
    types = dict.fromkeys(("user_id", "request_id", "item_id"), "bigint") | dict.fromkeys(("position", "label"), "int")
    types |= {"event_date": "date", "event_time": "timestamp"} | dict.fromkeys(LISTS, "array<bigint>")
    groups = (ProposedGroup("views", LISTS, False),)
    spec = DatasetSpec.build(name, schema, types, layout=layout, date_grain=grain, buckets=BUCKETS, groups=groups)
    if layout is Layout.USER:
        for column in LISTS:
            place = requests.column_names.index(column)
            requests = requests.set_column(place, column, pa.nulls(len(requests), requests.schema.field(column).type))
        requests = requests.append_column("views_runs", runs["views_runs"])
    data = {TableRole.REQUESTS: requests, TableRole.IMPRESSIONS: impressions, TableRole.EVENTS: events}
    catalog = load_catalog(settings.catalog.name, **pyiceberg_properties(settings))
    catalog.create_namespace(name)
    for told in spec.tables:
        rows = data[told.role].select(told.columns).sort_by([(c, "ascending") for c in told.sort_columns])
        properties = {ROLE_PROPERTY: told.role.value, "write.parquet.compression-codec": "zstd"}
        if told == spec.anchor:
            properties[SPEC_PROPERTY] = spec.to_json()
        table = catalog.create_table(f"{name}.{told.name}", rows.schema, properties=properties)
        date, parted = spec.partitioned(told.name).event_date_column, spec.partitioned(told.name).date_grain
        with table.update_spec() as update:
            if date is not None and parted is not DateGrain.NONE:
                update.add_field(date, IdentityTransform(), f"{date}_part")
            update.add_field("user_id", BucketTransform(BUCKETS), "user_bucket")
        table.append(rows)
        table.manage_snapshots().create_tag(table.metadata.current_snapshot_id, version_tag(1)).commit()


class Decoded:
    """Counts what Parquet's decoder hands out of a history column."""

    def __init__(self, column: str) -> None:
        self._column, self.tokens = column, 0

    def __enter__(self) -> Decoded:
        self._plain = pq.ParquetFile.iter_batches
        pq.ParquetFile.iter_batches = self._counting()
        return self

    def __exit__(self, *error: object) -> None:
        pq.ParquetFile.iter_batches = self._plain

    def _counting(self) -> Callable[..., Iterator[pa.RecordBatch]]:
        def batches(file: pq.ParquetFile, *args: Any, **more: Any) -> Iterator[pa.RecordBatch]:
            for batch in self._plain(file, *args, **more):
                if self._column in batch.schema.names:
                    column = batch.column(self._column)
                    self.tokens += len(column.flatten()) if pa.types.is_list(column.type) else len(column)
                yield batch

        return batches


def epoch(dataset: DedupDataset) -> tuple[int, int]:
    """Impressions and bytes of one."""
    found = [(batch.num_impressions, batch.num_bytes) for batch in dataset]
    return sum(rows for rows, _ in found), sum(size for _, size in found)


def sliding(report: Report, folder: str, scale: str, rounds: int) -> None:
    """The synthetic log."""
    settings = Settings(warehouse=f"{folder}/warehouse")
    tables = log(**SCALES[scale])
    for grain in (DateGrain.NONE, DateGrain.DAY):
        for layout in (Layout.SPLIT, Layout.USER):
            write(settings, f"{layout.value}_{grain.value}", layout, grain, tables)
        measure(report, settings, grain, LISTS, "item_id", tables[2].num_rows, rounds)


def journey(report: Report, arguments: argparse.Namespace) -> None:
    """Baskets of the Complete Journey."""
    # Not on top: the synthetic log needs no Spark.
    from dedup_storage.dataset.facade import Dataset
    from dedup_storage.demo import complete_journey
    from dedup_storage.sources.raw import RawLog

    lists = tuple(complete_journey.HISTORY.values())
    grains = (DateGrain.NONE, DateGrain.MONTH)
    with lake({"spark.driver.memory": "4g"}, arguments.place) as (spark, settings, place):
        counted = place / "events.json"
        if not counted.exists():
            events = {}
            complete_journey.write_log(place / "log", share=SHARES[arguments.scale], max_length=MOST_EVENTS)
            raw = RawLog.read(spark, str(place / "log"), schema=complete_journey.log_schema(MOST_EVENTS))
            for layout, grain in product((Layout.SPLIT, Layout.USER), grains):
                name = f"{layout.value}_{grain.value}"
                made = Dataset.create(
                    spark, settings, name, raw.schema, raw, layout=layout, buckets=BUCKETS, date_grain=grain
                )
                made.write(raw, gate=False)
                stored = [made.handle.cut().stored(group.table).count() for group in made.spec.events]
                events[grain.value] = sum(stored)
            counted.write_text(json.dumps(events))
        spark.stop()
        if written(arguments):
            return
        for grain in grains:
            events_of = json.loads(counted.read_text())[grain.value]
            measure(report, settings, grain, lists, complete_journey.ITEM, events_of, arguments.rounds)


def main() -> None:
    """Write, read, tell."""
    arguments = parse_kept(str(__doc__), None, log=("sliding", "journey"))
    report = Report(f"Reading layout user, {arguments.log} log", arguments.scale)
    if arguments.log == "journey":
        journey(report, arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            sliding(report, folder, arguments.scale, arguments.rounds)
    report.finish(arguments.json)


def measure(
    report: Report, settings: Settings, grain: DateGrain, lists: tuple[str, ...], item: str, events: int, rounds: int
) -> None:
    """One date grain."""
    across = {} if grain is DateGrain.NONE else {"across_dates": True}
    kinds: dict[str, tuple[Layout, dict[str, Any]]] = {
        "split": (Layout.SPLIT, {}),
        "user": (Layout.USER, {}),
        "user, shared": (Layout.USER, SHARED),
    }
    if across:
        kinds |= {"user, across dates": (Layout.USER, across), "user, across, shared": (Layout.USER, across | SHARED)}
    opened = {
        name: DedupDataset(f"{layout.value}_{grain.value}", settings, batch_size=BATCH, columns=[*lists, item], **o)
        for name, (layout, o) in kinds.items()
    }
    told: dict[str, tuple[int, int, int]] = {}
    for name, dataset in opened.items():
        with Decoded(lists[0]) as decoded:
            told[name] = (*epoch(dataset), decoded.tokens)
    timings = in_turn({name: lambda d=d: epoch(d) for name, d in opened.items()}, rounds)
    at = f"{grain.value}: "
    for name, (rows, size, tokens) in told.items():
        report.add(f"{at}{name}: impressions a second", rows / timings[name].median, "1/s")
        report.add(f"{at}{name}: tokens decoded by distinct events", tokens / events, "x")
        report.add(f"{at}{name}: bytes of batches", size / 1e6, "MB")
    best = next(n for n in reversed(kinds) if "shared" not in n)
    report.speedup(f"{at}{best} against split", timings[best], timings["split"], at_least=GAIN)
    share = told[best][2] / events
    report.add(f"{at}{best}: tokens by events", share, "x", target=f"<= {MOST_TOKENS}", holds=share <= MOST_TOKENS)


if __name__ == "__main__":
    main()
