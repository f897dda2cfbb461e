"""Each rule of the gate: the clean dataset passes, and one injected defect fails exactly the checks it must."""

from __future__ import annotations

import datetime as dt
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import ConfigError, QualityGateError, StorageError, UsageError
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.quality import GateFacts, Verdict, require, run_gate
from dedup_storage.quality import gate as gate_module
from dedup_storage.schema import DateGrain, LogSchema

# Identifiers that no count, name or page could hold by chance.
USERS = ("wanda-7f3e", "bruno-91ac")
SOURCE = {
    "user_id": "string",
    "request_id": "bigint",
    "ts": "timestamp",
    "country": "string",
    "hist": "array<bigint>",
    "hist_ts": "array<timestamp>",
    "item": "bigint",
    "price": "double",
    "y": "int",
}
REQUEST_DDL = (
    "user_id string, request_id bigint, event_date date, ts timestamp, country string, "
    "hist array<bigint>, hist_ts array<timestamp>"
)
IMPRESSION_DDL = "user_id string, request_id bigint, event_date date, position int, item bigint, price double, y int"
FLAT_DDL = REQUEST_DDL + ", position int, item bigint, price double, y int"
SCHEMA = {
    "user": "user_id",
    "request": "request_id",
    "item": "item",
    "event_time": "ts",
    "labels": "y",
    "columns": {"country": "request", "price": "impression"},
    "sequences": [
        {"column": "hist", "group": "h", "max_length": 3},
        {"column": "hist_ts", "group": "h", "times": True},
    ],
    "checks": {
        "price": {"minimum": 0, "maximum": 10},
        "y": {"allowed": [0, 1], "not_null": True},
        "country": {"allowed": ["DK", "SE"]},
    },
}
NOON = dt.datetime(2024, 1, 2, 12, tzinfo=dt.UTC)
Row = dict[str, Any]


def spec_of(layout: Layout) -> DatasetSpec:
    """The dataset that the frames belong to."""
    schema = LogSchema.from_dict(SCHEMA)
    return DatasetSpec.build("gated", schema, SOURCE, layout=layout, date_grain=DateGrain.DAY, buckets=4)


def clean_requests() -> list[Row]:
    """Four requests of two users, with an empty, a missing and two full histories."""
    histories: list[tuple[list[int] | None, list[dt.datetime] | None]] = [
        ([], []),
        (None, None),
        ([1, 2, 3], [NOON - dt.timedelta(hours=h) for h in (3, 2, 1)]),
        ([4], [NOON]),
    ]
    return [
        {
            "user_id": USERS[i // 2],
            "request_id": i,
            "event_date": NOON.date(),
            "ts": NOON,
            "country": "DK",
            "hist": hist,
            "hist_ts": times,
        }
        for i, (hist, times) in enumerate(histories)
    ]


def clean_impressions() -> list[Row]:
    """Three candidates of each request."""
    return [
        {
            "user_id": USERS[i // 2],
            "request_id": i,
            "event_date": NOON.date(),
            "position": p,
            "item": 100 + p,
            "price": 1.5 * p,
            "y": p % 2,
        }
        for i in range(4)
        for p in range(3)
    ]


def frame(spark: SparkSession, rows: list[Row], ddl: str) -> DataFrame:
    """The rows under their schema."""
    names = [column.strip().split(" ")[0] for column in ddl.split(", ")]
    return spark.createDataFrame([tuple(row[n] for n in names) for row in rows], ddl)


class Gate:
    """Runs the gate over changed copies of the clean dataset."""

    def __init__(self, spark: SparkSession, docs: Path) -> None:
        self.spark, self.docs = spark, docs
        self.requests, self.impressions = clean_requests(), clean_impressions()
        self.settings = Settings.model_validate({"quality": {"docs": str(docs)}})

    def own(self, text: str) -> None:
        """Add expectations of the user's own."""
        path = self.docs / "own.yaml"
        path.write_text(text, encoding="utf-8")
        self.settings = Settings.model_validate({"quality": {"docs": str(self.docs), "expectations": str(path)}})

    def split(self, **facts: int) -> Verdict:
        """The verdict on the split dataset."""
        return run_gate(
            spec=spec_of(Layout.SPLIT),
            settings=self.settings,
            run_id="run-1",
            facts=GateFacts(**facts),
            requests=frame(self.spark, self.requests, REQUEST_DDL),
            impressions=frame(self.spark, self.impressions, IMPRESSION_DDL),
        )

    def flat(self, logs: list[Row] | None = None, **facts: int) -> Verdict:
        """The verdict on the flat dataset."""
        return run_gate(
            spec=spec_of(Layout.FLAT),
            settings=self.settings,
            run_id="run-1",
            facts=GateFacts(**facts),
            logs=frame(self.spark, self.logs() if logs is None else logs, FLAT_DDL),
        )

    def logs(self) -> list[Row]:
        """The flat log of both frames."""
        return [{**self.requests[i["request_id"]], **i} for i in self.impressions]


def failed(verdict: Verdict) -> dict[str, int | None]:
    """Failing checks with their counts."""
    return {c.name: c.unexpected_count for c in verdict.failures}


@pytest.fixture
def gate(spark: SparkSession, tmp_path: Path) -> Gate:
    """A gate of its own for each test."""
    return Gate(spark, tmp_path)


def test_a_clean_split_dataset_passes_with_its_facts(gate: Gate) -> None:
    verdict = gate.split(
        input_rows=15,
        quarantined_rows=2,
        dropped_duplicates=1,
        written_request_rows=4,
        written_impression_rows=12,
        empty_requests=0,
        inconstant_requests=0,
        existing_request_keys=0,
    )
    assert failed(verdict) == {}
    assert verdict.passed
    assert {k: verdict.facts[k] for k in ("request_rows", "impression_rows", "dedup_factor")} == {
        "request_rows": 4,
        "impression_rows": 12,
        "dedup_factor": 3.0,
    }
    require(verdict)


def test_a_clean_flat_dataset_passes(gate: Gate) -> None:
    verdict = gate.flat(input_rows=12, written_impression_rows=12)
    assert failed(verdict) == {}
    assert verdict.facts["request_rows"] == 4
    assert verdict.facts["inconstant_requests"] == 0


def test_a_dataset_without_rows_passes(gate: Gate) -> None:
    gate.requests, gate.impressions = [], []
    verdict = gate.split(input_rows=0)
    assert failed(verdict) == {}
    assert verdict.facts["impression_rows"] == 0


def test_a_null_request_key_fails(gate: Gate) -> None:
    gate.requests[0]["user_id"] = None
    # The impressions of that request have lost it.
    assert failed(gate.split()) == {"request.user_id.not_null": 1, "dataset.orphan_impressions": 3}


def test_a_null_impression_key_fails(gate: Gate) -> None:
    gate.impressions[0]["request_id"] = None
    assert failed(gate.split()) == {"impression.request_id.not_null": 1}


def test_a_null_position_fails(gate: Gate) -> None:
    gate.impressions[0]["position"] = None
    assert failed(gate.split()) == {"impression.position.not_null": 1}


def test_a_null_event_time_fails_and_shows_no_freedom_from_leakage(gate: Gate) -> None:
    gate.requests[3]["ts"] = None
    assert failed(gate.split()) == {"request.ts.not_null": 1, "request.hist_ts.not_later": 1}


def test_a_request_twice_fails(gate: Gate) -> None:
    gate.requests += [gate.requests[1], gate.requests[1]]
    assert failed(gate.split()) == {"dataset.duplicate_request_keys": 2}


def test_an_impression_twice_fails(gate: Gate) -> None:
    gate.impressions.append({**gate.impressions[4], "item": 999})
    assert failed(gate.split()) == {"dataset.duplicate_impression_keys": 1}
    assert failed(gate.flat(inconstant_requests=0)) == {"dataset.duplicate_impression_keys": 1}


def test_an_impression_without_its_request_fails(gate: Gate) -> None:
    del gate.requests[2]
    assert failed(gate.split()) == {"dataset.orphan_impressions": 3}


def test_a_request_without_impressions_fails_only_if_the_input_had_none(gate: Gate) -> None:
    gate.impressions = [i for i in gate.impressions if i["request_id"] != 3]
    assert failed(gate.split()) == {}
    assert failed(gate.split(empty_requests=1)) == {}
    assert failed(gate.split(empty_requests=0)) == {"dataset.empty_requests.equals_expected_empty_requests": 1}


def test_inconstant_requests_fail(gate: Gate) -> None:
    assert failed(gate.split(inconstant_requests=5)) == {"dataset.inconstant_requests": 5}


@pytest.mark.parametrize("value", ["SE", None])
def test_an_inconstant_scalar_of_a_flat_log_is_found_in_its_rows(gate: Gate, value: str | None) -> None:
    logs = gate.logs()
    logs[7] = {**logs[7], "country": value}
    assert failed(gate.flat(logs)) == {"dataset.inconstant_requests": 1}


def test_an_inconstant_list_of_a_flat_log_is_found_in_its_rows(gate: Gate) -> None:
    logs = gate.logs()
    logs[7] = {**logs[7], "hist": [1, 2, 9]}
    assert failed(gate.flat(logs)) == {"dataset.inconstant_requests": 1}


def test_a_request_that_the_dataset_holds_already_fails(gate: Gate) -> None:
    assert failed(gate.split(existing_request_keys=2)) == {"dataset.existing_request_keys": 2}


@pytest.mark.parametrize("facts", [{"input_rows": 15}, {"input_rows": 12, "quarantined_rows": 3}])
def test_rows_lost_or_gained_against_the_input_fail(gate: Gate, facts: dict[str, int]) -> None:
    assert failed(gate.split(**facts)) == {"dataset.impression_rows.equals_expected_impression": 3}


def test_rows_other_than_the_writer_counted_fail(gate: Gate) -> None:
    assert failed(gate.split(written_request_rows=5, written_impression_rows=13)) == {
        "dataset.request_rows.equals_written_request": 1,
        "dataset.impression_rows.equals_written_impression": 1,
    }


def test_a_value_out_of_range_fails(gate: Gate) -> None:
    gate.impressions[0]["price"], gate.impressions[1]["price"] = -0.5, 10.5
    assert failed(gate.split()) == {"impression.price.between": 2}


def test_a_value_that_is_not_allowed_fails(gate: Gate) -> None:
    gate.impressions[0]["y"] = 2
    gate.requests[0]["country"] = "NO"
    assert failed(gate.split()) == {"impression.y.allowed": 1, "request.country.allowed": 1}


def test_a_missing_label_fails_where_declared(gate: Gate) -> None:
    gate.impressions[0]["y"] = None
    assert failed(gate.split()) == {"impression.y.not_null": 1}


def test_a_sequence_longer_than_its_bound_fails(gate: Gate) -> None:
    gate.requests[2] |= {"hist": [1, 2, 3, 4], "hist_ts": [NOON] * 4}
    assert failed(gate.split()) == {"request.hist.max_length": 1}
    assert failed(gate.flat()) == {"request.hist.max_length": 1}


@pytest.mark.parametrize("times", [None, [], [NOON, NOON]])
def test_parallel_lists_of_unequal_length_fail(gate: Gate, times: list[dt.datetime] | None) -> None:
    gate.requests[3]["hist_ts"] = times
    assert failed(gate.split()) == {"request.h.parallel": 1}


def test_a_missing_list_counts_as_empty_beside_an_empty_one(gate: Gate) -> None:
    gate.requests[0]["hist_ts"] = None
    assert failed(gate.split()) == {}


def test_an_element_later_than_its_request_fails(gate: Gate) -> None:
    gate.requests[2]["hist_ts"] = [NOON, NOON + dt.timedelta(microseconds=1), NOON]
    assert failed(gate.split()) == {"request.hist_ts.not_later": 1}
    assert failed(gate.flat()) == {"request.hist_ts.not_later": 1}


def test_a_refusal_leaves_a_verdict_and_pages_without_any_value_of_a_row(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.requests.append(gate.requests[0])
    gate.impressions[5] |= {"y": 48151623, "user_id": USERS[0]}
    caplog.set_level(logging.DEBUG)
    verdict = gate.split()
    with pytest.raises(QualityGateError, match=r"impression\.y\.allowed") as caught:
        require(verdict)
    place = gate.docs / "gated" / "run-1"
    saved = json.loads((place / "verdict.json").read_text())
    assert saved["passed"] is False
    pages = list(place.rglob("*.html"))
    assert (place / "index.html") in pages
    assert len(list((place / "validations").rglob("*.html"))) == 3
    told = [str(caught.value), caplog.text, json.dumps(saved), *(p.read_text(encoding="utf-8") for p in pages)]
    for secret in (*USERS, "48151623"):
        assert not any(secret in text for text in told)


def test_running_again_replaces_the_pages(gate: Gate) -> None:
    gate.split()
    gate.split()
    pages = list((gate.docs / "gated" / "run-1" / "validations").rglob("*.html"))
    assert len(pages) == 3


@pytest.mark.parametrize("layout", list(Layout))
def test_lists_never_reach_great_expectations(gate: Gate, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[str]] = {}
    inner = gate_module.evaluate

    def spy(batches: Any, **options: Any) -> Any:
        seen.update({b.name: [str(t) for _, t in b.frame.dtypes] for b in batches if b.name != "dataset"})
        return inner(batches, **options)

    monkeypatch.setattr(gate_module, "evaluate", spy)
    assert (gate.split() if layout is Layout.SPLIT else gate.flat()).passed
    assert set(seen) == {"requests", "impressions"}
    assert not any("array" in kind or "struct" in kind for kinds in seen.values() for kind in kinds)


def test_the_session_is_left_as_it_was(gate: Gate, spark: SparkSession) -> None:
    before = dict(spark.conf.getAll)
    cached = spark.sparkContext._jsc.getPersistentRDDs().size()
    gate.split()
    gate.flat()
    assert dict(spark.conf.getAll) == before
    assert spark.sparkContext._jsc.getPersistentRDDs().size() == cached
    assert not spark.sparkContext._jsc.sc().isStopped()


def test_own_expectations_hold_and_fail_beside_the_built_ones(gate: Gate) -> None:
    gate.own(
        """
        - {grain: request, type: expect_column_values_to_be_between, kwargs: {column: hist_length, min_value: 1}}
        - {grain: request, type: expect_column_mean_to_be_between, kwargs: {column: hist_length, max_value: 1.5}}
        - {grain: request, type: expect_column_values_to_be_between, kwargs: {column: ts, min_value: 2024-01-01}}
        - {grain: impression, type: expect_column_mean_to_be_between, kwargs: {column: y, min_value: 0.5}}
        - {grain: impression, type: expect_compound_columns_to_be_unique, kwargs: {column_list: [user_id, item]}}
        - {grain: dataset, type: expect_column_values_to_be_between, kwargs: {column: impression_rows, min_value: 99}}
        """
    )
    # Lengths 0, missing, 3, 1: one below 1, mean 4/3 over requests (in a flat log not over its rows); every item
    # occurs in both requests of its user.
    expected = {
        "own.request.column_values_to_be_between.hist_length": 1,
        "own.impression.column_mean_to_be_between.y": None,
        "own.impression.compound_columns_to_be_unique.user_id.item": 12,
        "own.dataset.column_values_to_be_between.impression_rows": None,
    }
    assert failed(gate.split()) == expected
    assert failed(gate.flat()) == expected


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("expect_column_values_to_match_regex", "column: country, regex: '('"),
        ("expect_column_values_to_be_between", "column: country, min_value: 3"),
        ("expect_column_values_to_be_in_set", "column: user_id, value_set: [1, 2]"),
    ],
)
def test_an_own_expectation_that_cannot_be_evaluated_is_named_without_a_value(
    gate: Gate, kind: str, arguments: str
) -> None:
    gate.own(f"- {{grain: request, type: {kind}, kwargs: {{{arguments}}}}}")
    with pytest.raises(ConfigError, match=kind.removeprefix("expect_")) as caught:
        gate.split()
    assert not any(secret in str(caught.value) for secret in (*USERS, "DK"))


def test_an_own_expectation_with_unfit_arguments_is_named(gate: Gate) -> None:
    gate.own("- {grain: request, type: expect_column_values_to_be_in_set, kwargs: {column: country, value_set: 7}}")
    with pytest.raises(ConfigError, match="arguments of own"):
        gate.split()


def test_frames_that_do_not_fit_the_layout_are_refused(gate: Gate, spark: SparkSession) -> None:
    with pytest.raises(UsageError, match="requests and impressions"):
        run_gate(
            spec=spec_of(Layout.SPLIT),
            settings=gate.settings,
            run_id="run-1",
            facts=GateFacts(),
            logs=frame(spark, gate.logs(), FLAT_DDL),
        )


def test_a_place_that_cannot_be_written_is_named(gate: Gate) -> None:
    (gate.docs / "file").write_text("")
    gate.settings = Settings.model_validate({"quality": {"docs": str(gate.docs / "file")}})
    with pytest.raises(StorageError, match=r"quality\.docs"):
        gate.split()
