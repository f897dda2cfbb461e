"""Filters on stored columns keep exactly the rows that a plain loop keeps."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dedup_storage.errors import ConfigError, SchemaError, StateMismatchError, UnknownColumnError
from dedup_storage.layout import ROLE_PROPERTY, Layout
from dedup_storage.reader import DedupDataset, Filters
from dedup_storage.reader.open.conditions import Condition
from dedup_storage.reader.options import ReadOptions
from dedup_storage.schema import Grain
from tests.reader.lake import Lake, Log, make_log

Row = dict[str, Any]
DAY = 86_400_000_000


@pytest.fixture(scope="module")
def log(lake: Lake) -> Log:
    made = make_log(users=14, string_users=True)
    score = made.requests.select(["user_id", "request_id", "event_date"])
    score = score.append_column("score", pa.array(range(score.num_rows), pa.int64()))
    score = score.filter(pa.array([i % 4 > 0 for i in range(score.num_rows)]))
    tally = made.impressions.select(["user_id", "request_id", "position", "event_date"])
    tally = tally.append_column("tally", pa.array(range(tally.num_rows), pa.int64()))
    for layout in Layout:
        name = f"filter_{layout}"
        if name in lake._standing:
            continue
        lake.standing(name, made, layout=layout, files=2, row_group_rows=7)
        for group, table, key in (("score", score, ["user_id", "request_id"]), ("tally", tally, ["user_id"])):
            spec = DedupDataset(name, lake.settings, columns=["item_id"]).plan.spec
            stored = lake.create(f"{name}.fg_{group}", table.schema, spec, {ROLE_PROPERTY: "features"})
            lake.append(stored, table, key)
        lake.tag(name, 1, ["fg_score", "fg_tally"])
    return made


CASES: list[tuple[dict[str, Any], Callable[[Row], bool]]] = [
    ({"country": "DE"}, lambda r: r["country"] == "DE"),
    ({"country": ["FR", None]}, lambda r: r["country"] in ("FR", None)),
    ({"country": {"!=": "FR"}}, lambda r: r["country"] not in ("FR", None)),
    ({"age": {">=": 10, "<": 40}}, lambda r: r["age"] is not None and 10 <= r["age"] < 40),
    ({"age": None}, lambda r: r["age"] is None),
    ({"label": 1}, lambda r: r["label"] == 1),
    ({"label": 1, "country": "日本"}, lambda r: r["label"] == 1 and r["country"] == "日本"),
    ({"price": {">": 20}, "label": 0}, lambda r: r["price"] is not None and r["price"] > 20 and r["label"] == 0),
    ({"category": {"c3", "c5"}}, lambda r: r["category"] in ("c3", "c5")),
    ({"position": 0}, lambda r: r["position"] == 0),
    ({"score": {">": 20}}, lambda r: r["score"] is not None and r["score"] > 20),
    ({"score": None, "label": 1}, lambda r: r["score"] is None and r["label"] == 1),
    ({"event_time": {"<": "1970-01-01"}}, lambda r: False),
    ({"event_time": {">=": "2022-01-09T02:00:00+02:00"}}, lambda r: r["event_date"].day == 9),
    ({"event_date": "2022-01-08"}, lambda r: r["event_date"].day == 8),
    ({"start": "2022-01-09", "category": "c1"}, lambda r: r["category"] == "c1" and r["event_date"].day == 9),
    ({"where": {"user_id": "usér-3-日"}}, lambda r: r["user_id"] == "usér-3-日"),
    (
        {"age": {">=": np.float32(10)}, "position": np.array([0, 2])},
        lambda r: (r["age"] or 0) >= 10 and r["position"] in (0, 2),
    ),
    (
        {"event_date": np.datetime64("2022-01-08"), "category": pa.array(["c1", "c2"])},
        lambda r: r["event_date"].day == 8 and r["category"] in ("c1", "c2"),
    ),
]


@pytest.mark.parametrize("layout", [Layout.SPLIT, Layout.FLAT])
def test_filters_keep_what_a_loop_keeps(lake: Lake, log: Log, layout: Layout) -> None:
    scores = {r["request_id"]: i if i % 4 else None for i, r in enumerate(log.requests.to_pylist())}
    rows = [{**row, "score": scores[row["request_id"]]} for row in log.flat.to_pylist()]
    days = sorted({row["event_date"] for row in rows})
    assert [day.day for day in days] == [8, 9]
    for filters, keeps in CASES:
        dataset = DedupDataset(
            f"filter_{layout}", lake.settings, filters=filters, columns=["item_id", "age", "tally"], batch_size=20
        )
        found = []
        for batch in dataset:
            assert batch.lengths.min() > 0
            table = batch.to_arrow().select(["request_id", "item_id", "age"])
            found += [tuple(row.values()) for row in table.to_pylist()]
        wanted = [(row["request_id"], row["item_id"], row["age"]) for row in rows if keeps(row)]
        assert sorted(found, key=str) == sorted(wanted, key=str), filters


def test_impressions_of_a_request_keep_their_order_and_their_features(lake: Lake, log: Log) -> None:
    places = {(r["request_id"], r["position"]): i for i, r in enumerate(log.impressions.to_pylist())}
    for batch in DedupDataset("filter_split", lake.settings, filters={"label": 1}, batch_size=20):
        rows = batch.to_pandas()[["request_id", "position", "tally", "label"]]
        assert set(rows["label"]) == {1}
        assert rows["tally"].tolist() == [places[key] for key in zip(rows["request_id"], rows["position"], strict=True)]
        assert all(positions.is_monotonic_increasing for _, positions in rows.groupby("request_id")["position"])


@pytest.mark.parametrize(
    ("filters", "error", "told"),
    [
        ({"countri": "DE"}, UnknownColumnError, "the filters name countri, which is no column.*country"),
        ({"history": 3}, SchemaError, "the filters name the column history; expected single values; got large_list"),
        ({"tally": 3}, ConfigError, "the column tally of an impression-grain feature group"),
        ({"label": "many"}, ConfigError, "the filter on label asks for a value.*expected int32; got 'many'"),
        ({"label": 1.5}, ConfigError, "the filter on label asks for a value.*expected int32; got 1.5"),
        ({"age": {"=>": 3}}, ConfigError, "the filter on age compares by =>"),
        ({"age": {}}, ConfigError, "the filter on age compares by nothing"),
        ({"age": []}, ConfigError, "the filter on age lists no value"),
        ({"age": 3, "where": {"age": 4}}, ConfigError, "the column age is named twice"),
    ],
)
def test_a_filter_that_cannot_be_is_told(
    lake: Lake, log: Log, filters: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        DedupDataset("filter_split", lake.settings, filters=filters)


def test_a_state_names_the_filters(lake: Lake, log: Log) -> None:
    state = DedupDataset("filter_split", lake.settings, filters={"label": 1}).state_dict()
    with pytest.raises(StateMismatchError, match=r"filters was \{'where': \{'label': 1\}\}"):
        DedupDataset("filter_split", lake.settings, filters={"label": 0}).load_state_dict(state)


@pytest.mark.parametrize(
    ("values", "wanted", "kept"),
    [
        (pa.array([2**64 - 1, 5, None], pa.uint64()).cast(pa.decimal128(20, 0)), 2**64 - 1, [True, False, False]),
        (pa.array([2**63, 5, None], pa.uint64()).cast(pa.decimal128(20, 0)), {">=": 2**63}, [True, False, False]),
        (pa.array([b"\xff", b"ab", None]), b"\xff", [True, False, False]),
        (pa.array([b"\xff", b"ab", None]), [b"ab", None], [False, True, True]),
        (pa.array([3, 4, None]), range(4), [True, False, False]),
        (pa.array([3, 4, None]), pa.scalar(4), [False, True, False]),
        (pa.array([3, 4, None]), np.array(4), [False, True, False]),
        (pa.array([3, 4, None]), (n for n in (4, None)), [False, True, True]),
        (pa.array([0, 10**9, None], pa.timestamp("us")), np.datetime64(10**12, "ns"), [False, True, False]),
        # A list of values left out minus zero, which a comparison kept.
        (pa.array([0.0, -0.0, None]), 0.0, [True, True, False]),
        (pa.array([0.0, 1.0, None]), [-0.0, None], [True, False, True]),
        (pa.array([float("nan"), 1.0]), float("nan"), [True, False]),
        (pa.array([1, 0, None]), True, [True, False, False]),
        (pa.array([True, False, None]), 1, [True, False, False]),
        (pa.array([Decimal("1.10"), None]), 1.1, [True, False]),
        (pa.array([dt.date(2024, 6, 1), None]), dt.datetime(2024, 6, 1), [True, False]),
        (pa.array(["7", None]), 7, [True, False]),
    ],
)
def test_values_of_every_kind_are_asked_for(values: pa.Array, wanted: object, kept: list[bool]) -> None:
    filters = Filters.model_validate({"where": {"column": wanted}})
    condition = Condition("column", values.type, Grain.REQUEST, None, filters.where["column"])  # type: ignore[arg-type]
    assert condition.mask(pa.chunked_array([values])).to_pylist() == kept
    assert json.loads(json.dumps(filters.dumped())) == filters.dumped()
    assert ReadOptions(filters=filters).described()["filters"]["where"]


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (pa.int64(), 2**63),
        # Arrow took each of these for another value: 7, 16, a neighbour, true, the day, 1.00, "7", 1970.
        (pa.int64(), "007"),
        (pa.int64(), "0x10"),
        (pa.int64(), 2.0**53 + 2),
        (pa.bool_(), 2),
        (pa.bool_(), 0.5),
        (pa.date32(), dt.datetime(2024, 6, 1, 12)),
        (pa.decimal128(9, 2), 1.005),
        (pa.string(), 7.0),
        (pa.string(), True),
        (pa.timestamp("us", "UTC"), 1_717_200_000),
    ],
)
@pytest.mark.parametrize("form", [lambda value: value, lambda value: [value], lambda value: {">=": value}])
def test_a_value_that_no_column_holds_is_told(
    kind: pa.DataType, wanted: object, form: Callable[[object], object]
) -> None:
    condition = Condition("column", kind, Grain.REQUEST, None, form(wanted))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the filter on column asks for a value that the column cannot hold"):
        condition.mask(pa.chunked_array([pa.nulls(1, kind)]))
