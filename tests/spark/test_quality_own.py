"""Expectations of the user's own beside the built ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from dedup_storage.errors import ConfigError
from tests.spark.gating import USERS, Gate, failed


@pytest.fixture
def gate(spark: SparkSession, tmp_path: Path) -> Gate:
    """A gate of its own for each test."""
    return Gate(spark, tmp_path)


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
