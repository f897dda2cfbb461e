"""The gate on values and lists: one injected defect fails exactly the checks it must."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.spark.gating import NOON, Gate, failed


@pytest.fixture
def gate(spark: SparkSession, tmp_path: Path) -> Gate:
    """A gate of its own for each test."""
    return Gate(spark, tmp_path)


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
    gate.requests[2]["hist_ts"] = [NOON, NOON, NOON + dt.timedelta(microseconds=1)]
    assert failed(gate.split()) == {"request.hist_ts.not_later": 1}
    assert failed(gate.flat()) == {"request.hist_ts.not_later": 1}


def test_times_that_descend_fail(gate: Gate) -> None:
    """As in lists with the newest element first, or padded at their end."""
    gate.requests[2]["hist_ts"] = [NOON, NOON - dt.timedelta(microseconds=1), NOON]
    assert failed(gate.split()) == {"request.hist_ts.in_order": 1}
    assert failed(gate.flat()) == {"request.hist_ts.in_order": 1}


def test_nan_fails_its_bounds(gate: Gate) -> None:
    gate.impressions[0]["price"] = float("nan")
    assert failed(gate.split()) == {"impression.price.between": 1}


def test_a_refusal_names_the_longest_list_and_where_it_is(gate: Gate) -> None:
    gate.requests[2] |= {"hist": [1] * 12, "hist_ts": [NOON] * 12}
    gate.requests[3] |= {"hist": [1] * 5, "hist_ts": [NOON] * 5}
    for verdict in (gate.split(), gate.flat()):
        (check,) = verdict.failures
        assert check.expected == "at most 3 elements; the longest has 12, on 2024-01-02"


def test_missing_items_are_counted_and_said(gate: Gate) -> None:
    gate.impressions[0]["item"] = gate.impressions[4]["item"] = None
    for verdict in (gate.split(), gate.flat()):
        assert verdict.passed
        assert verdict.facts["null_items"] == 2
        assert verdict.hints == ("2 impressions have no item",)


@pytest.mark.long
def test_a_wrong_unit_is_refused_and_a_broken_clock_is_said(gate: Gate) -> None:
    far = dt.datetime(2189, 1, 1, tzinfo=dt.UTC)
    gate.requests[0]["ts"] = far
    one = gate.split()
    assert one.passed
    assert one.hints == (
        "ts: 1 request rows are not as expected: most of it not before 1990-01-01 and not after 2099-12-31, UTC",
    )
    # A date beyond all others switches no other check off.
    gate.impressions.append(gate.impressions[0])
    assert failed(gate.split()) == {"dataset.duplicate_impression_keys": 1}
    del gate.impressions[-1]
    for request in gate.requests[:3]:
        request["ts"], request["hist_ts"] = dt.datetime(1970, 1, 20, tzinfo=dt.UTC), None
        request["hist"] = None
    assert failed(gate.split()) == {"request.ts.plausible": 3}
    assert failed(gate.flat()) == {"request.ts.plausible": 3}


def test_histories_of_a_wrong_unit_are_refused(gate: Gate) -> None:
    for number in (2, 3):
        hist = gate.requests[number]["hist"]
        gate.requests[number]["hist_ts"] = [dt.datetime(1970, 1, 20, tzinfo=dt.UTC)] * len(hist)
    assert failed(gate.split()) == {"request.hist_ts.plausible": 2}
