"""The gate on keys, grains and counts: the clean dataset passes, and one defect fails exactly the checks it must."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from dedup_storage.quality import require
from tests.spark.gating import Gate, failed


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
