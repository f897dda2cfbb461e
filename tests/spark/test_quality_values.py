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
