"""Requests to catalog and store, counted: they grow with the files that are read, never with versions or the dataset.

``pytest tests/reader/test_requests.py -rP --log-level=INFO`` prints them.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dedup_storage.reader import DedupDataset
from tests.reader.cloud import cloud, writing_settings
from tests.reader.lake import Lake, Log, make_log

_logger = logging.getLogger(__name__)
DAYS, FIRST = 6, 19_000
OPTIONS: dict[str, Any] = {"batch_size": 6, "splits": 2, "mix": 1, "columns": ["item_id", "history"]}


def of_days(log: Log, first: int, count: int) -> Log:
    """The requests and impressions of some of a log's days."""
    days = pa.array(range(FIRST + first, FIRST + first + count), pa.int32()).cast(pa.date32())
    tables = [t.filter(pc.is_in(t["event_date"], value_set=days)) for t in (log.requests, log.impressions)]
    return Log(log.schema, *tables)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One dataset of a day, and one with a version more for each of five more days."""
    place, log = tmp_path_factory.mktemp("requests"), make_log(users=12, requests_per_user=DAYS, days=DAYS)
    lake = Lake(writing_settings(place))
    lake.write("day", of_days(log, 0, 1), buckets=2)
    spec = lake.write("days", of_days(log, 0, 1), buckets=2)
    for day in range(1, DAYS):
        added = of_days(log, day, 1)
        for table, rows in zip(spec.tables, (added.requests, added.impressions), strict=True):
            assert ("label" in rows.column_names) == ("label" in table.columns)
            lake.append(lake.table("days", table.name), rows.select(table.columns), table.sort_columns)
        lake.tag("days", day + 1)
    return place


def counted(folder: Path, name: str, **options: Any) -> dict[str, tuple[Counter[str], Counter[str]]]:
    """Requests of opening a dataset, of its first batch, and of an epoch."""
    with cloud(folder) as served:
        found = {}
        dataset = DedupDataset(name, served.settings(), **OPTIONS, **options)
        found["opening"] = served.counted()
        first = iter(dataset)
        next(first)
        first.close()
        found["first batch"] = served.counted()
        dataset.set_epoch(1)
        assert len(list(dataset)) == len(dataset)
        found["epoch"] = served.counted()
    for what, (catalog, store) in found.items():
        _logger.info("%s %s %s: catalog %s, store %s", name, options or "", what, dict(catalog), dict(store))
    return found


def test_requests_do_not_grow_with_versions_and_days(folder: Path) -> None:
    day = {"filters": {"end": "2022-01-08"}}
    for options, others in ((day, day), ({}, {"version": 1})):
        alone, among_others = counted(folder, "day", **options), counted(folder, "days", **others)
        assert among_others["opening"] == alone["opening"]
        assert among_others["epoch"] == alone["epoch"]


def test_requests_grow_with_files(folder: Path) -> None:
    """Two tables of two files each, against six times as many."""
    few, many = counted(folder, "day"), counted(folder, "days")
    assert few["opening"][0] == many["opening"][0] == Counter(config=1, tables=1, table=2)
    assert not few["epoch"][0] + many["epoch"][0]
    for found, days in ((few, 1), (many, DAYS)):
        stored = [store for _, store in found.values()]
        # A manifest list and the manifests of each table, for each a request for its length and one for its bytes.
        assert stored[0]["GET metadata"] == stored[0]["HEAD metadata"] == 2 * (1 + days)
        assert sum(s["GET metadata"] for s in stored[1:]) == 0
        data = sum(s[kind] for s in (stored[0], stored[2]) for kind in ("HEAD data", "GET data"))
        assert data <= 12 * 4 * days
    assert few["first batch"][1].total() <= few["epoch"][1].total()
