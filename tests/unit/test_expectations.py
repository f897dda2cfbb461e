"""Rules from the schema and from the user's file, without an engine."""

from __future__ import annotations

import datetime as dt
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from dedup_storage.config import Settings
from dedup_storage.errors import ConfigError, QualityGateError, SchemaError, UnsafeNameError
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.quality import CheckResult, GateFacts, Verdict, require
from dedup_storage.quality.columns import derived_columns, scalar_columns
from dedup_storage.quality.expectations import build_rules
from dedup_storage.quality.gate import docs_directory
from dedup_storage.quality.own import SUPPORTED, own_rules
from dedup_storage.schema import DateGrain, Grain, LogSchema
from tests.audited import AUDITED_SCHEMA, AUDITED_TYPES

SOURCE = {**AUDITED_TYPES, "user_id": "bigint"}


def spec_of(layout: Layout = Layout.SPLIT, source: dict[str, str] | None = None, **changes: Any) -> DatasetSpec:
    """A dataset with two parallel histories, one of them of times."""
    schema = LogSchema.from_dict({**AUDITED_SCHEMA, **changes})
    return DatasetSpec.build("logs", schema, source or SOURCE, layout=layout, date_grain=DateGrain.DAY, buckets=4)


def names(spec: DatasetSpec, facts: GateFacts | None = None) -> set[str]:
    """Names of the built rules."""
    return {rule.name for rule in build_rules(spec, facts or GateFacts())}


def own(tmp_path: Path, text: str, spec: DatasetSpec | None = None) -> Any:
    """Rules of a file with this text."""
    path = tmp_path / "expectations.yaml"
    path.write_text(text, encoding="utf-8")
    return own_rules(path, spec or spec_of())


def test_split_rules_follow_from_the_schema() -> None:
    assert names(spec_of()) == {
        "request.user_id.not_null",
        "request.request_id.not_null",
        "request.ts.not_null",
        "impression.user_id.not_null",
        "impression.request_id.not_null",
        "impression.position.not_null",
        "request.hist.max_length",
        "request.hist_ts.not_later",
        "request.hist_ts.in_order",
        "request.ts.plausible",
        "request.hist_ts.plausible",
        "request.h.parallel",
        "dataset.duplicate_request_keys",
        "dataset.duplicate_impression_keys",
        "dataset.orphan_impressions",
    }


def test_stated_bounds_of_times_take_the_place_of_plausible_ones() -> None:
    checks = {"ts": {"minimum": "2024-01-01"}, "hist_ts": {"maximum": dt.datetime(2024, 2, 1, 12)}}
    spec = spec_of(checks=checks)
    assert LogSchema.from_dict(spec.schema_.to_dict()) == spec.schema_
    rules = {r.name: r for r in build_rules(spec, GateFacts())}
    assert rules["request.ts.between"].expected == "not before 2024-01-01"
    assert rules["request.hist_ts.between"].expected == "not after 2024-02-01 12:00:00"
    assert not [name for name in rules if name.endswith("plausible")]
    assert "mostly" not in rules["request.ts.between"].kwargs


def test_nan_lies_outside_of_a_bound_from_below(tmp_path: Path) -> None:
    (rule,) = [r for r in build_rules(spec_of(checks={"price": {"minimum": 0}}), GateFacts()) if ".between" in r.name]
    assert rule.expected == "at least 0"
    assert rule.kwargs["max_value"] == sys.float_info.max
    between = "- {grain: impression, type: expect_column_values_to_be_between, kwargs: {column: %s, min_value: 0}}"
    assert own(tmp_path, between % "price")[0].kwargs["max_value"] == sys.float_info.max
    assert "max_value" not in own(tmp_path, between % "y")[0].kwargs


def test_a_flat_log_has_no_orphans_and_its_constancy_is_checked() -> None:
    found = names(spec_of(Layout.FLAT))
    assert "dataset.inconstant_requests" in found
    assert not {"dataset.orphan_impressions", "dataset.duplicate_request_keys"} & found


def test_what_the_writer_knows_adds_rules() -> None:
    facts = GateFacts(input_rows=1, existing_request_keys=0, written_request_rows=1, empty_requests=0)
    assert names(spec_of(), facts) - names(spec_of()) == {
        "dataset.existing_request_keys",
        "dataset.impression_rows.equals_expected_impression",
        "dataset.request_rows.equals_written_request",
        "dataset.empty_requests.equals_expected_empty_requests",
    }


def test_a_label_may_be_late_unless_declared_otherwise() -> None:
    assert "impression.y.not_null" not in names(spec_of())
    assert "impression.y.not_null" in names(spec_of(checks={"y": {"not_null": True}}))


def test_no_rule_reads_a_list() -> None:
    lists = {"hist", "hist_ts"}
    assert not any(lists & set(rule.columns) for rule in build_rules(spec_of(), GateFacts()))
    assert not lists & set(scalar_columns(spec_of(), Grain.REQUEST))


def test_derived_names_avoid_the_columns_of_the_log() -> None:
    source = {**SOURCE, "hist_length": "int"}
    spec = spec_of(source=source, columns={"country": "request", "price": "impression", "hist_length": "request"})
    assert derived_columns(spec).lengths["hist"] == "_hist_length"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"checks": {"prise": {"minimum": 0}}}, "price"),
        ({"checks": {"hist": {"not_null": True}}}, "hist"),
        ({"checks": {"country": {"minimum": 0}}}, "checks.country"),
        ({"checks": {"country": {"allowed": [1]}}}, "checks.country.allowed"),
        ({"checks": {"y": {"allowed": ["1"]}}}, "checks.y.allowed"),
        ({"checks": {"y": {"allowed": [True]}}}, "checks.y.allowed"),
        ({"sequences": [{"column": "hist", "times": True}], "columns": {"country": "request", "price": "impression",
          "hist_ts": "request"}}, "hist"),
    ],
)  # fmt: skip
def test_a_check_that_does_not_fit_its_column_is_refused_early(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SchemaError, match=named):
        build_rules(spec_of(**changes), GateFacts())


def test_own_rules_are_read(tmp_path: Path) -> None:
    rules = own(
        tmp_path,
        """
        - {grain: request, type: expect_column_values_to_be_between, kwargs: {column: hist_length, min_value: 1}}
        - {grain: impression, type: expect_column_mean_to_be_between, kwargs: {column: y, max_value: 0.5}, name: ctr}
        - {grain: dataset, type: expect_column_values_to_be_between, kwargs: {column: dedup_factor, min_value: 2}}
        """,
    )
    assert [rule.name for rule in rules] == [
        "own.request.column_values_to_be_between.hist_length",
        "own.impression.ctr",
        "own.dataset.column_values_to_be_between.dedup_factor",
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: 1", "a list of"),
        ("- [", "line"),
        ("- {grain: user, type: x}", "grain"),
        ("- {grain: request, type: x, colour: red}", "colour"),
        ("- {grain: request, type: expect_column_values_to_be_beetween, kwargs: {column: ts}}", "to_be_between"),
        ("- {grain: request, type: expect_column_max_to_be_between, kwargs: {column: user_id}}", "unknown type"),
        ("- {grain: request, type: expect_column_values_to_not_be_null, kwargs: {column: cuontry}}", "country"),
        ("- {grain: request, type: expect_column_values_to_not_be_null, kwargs: {column: hist}}", "hist_length"),
        ("- {grain: request, type: expect_column_values_to_not_be_null, kwargs: {column: price}}", "request grain"),
        ("- {grain: impression, type: expect_column_values_to_not_be_null}", "needs the argument column"),
        ("- {grain: request, type: expect_column_values_to_not_be_null, kwargs: {column: ts, meta: 1}}", "meta"),
        ("- {grain: request, type: expect_column_sum_to_be_between, kwargs: {column: user_id}}", "identifiers"),
        ("- {grain: dataset, type: expect_column_values_to_not_be_null, kwargs: {column: rows}}", "impression_rows"),
        ("- {grain: request, type: expect_compound_columns_to_be_unique, kwargs: {column_list: ts}}", "column_list"),
        (
            "- {grain: dataset, type: expect_table_row_count_to_equal, kwargs: {value: true}}",
            "value: true is a truth value",
        ),
        (
            "- {grain: impression, type: expect_column_values_to_be_between, kwargs: {column: price, min_value: .nan}}",
            "min_value: NaN is no number",
        ),
    ],
)
def test_a_wrong_own_file_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        own(tmp_path, text)


def test_a_missing_own_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        own_rules(tmp_path / "nothing.yaml", spec_of())


@pytest.mark.skipif(importlib.util.find_spec("great_expectations") is None, reason="needs great-expectations")
def test_every_offered_expectation_exists_with_its_arguments() -> None:
    import great_expectations.expectations as gxe

    for name, arguments in SUPPORTED.items():
        kind = getattr(gxe, "".join(part.capitalize() for part in name.split("_")))
        assert arguments <= set(kind.__fields__), name


def verdict_of(*checks: CheckResult) -> Verdict:
    """A verdict over these checks."""
    passed = all(c.passed for c in checks)
    return Verdict(passed=passed, dataset="logs", run_id="r", checks=checks, facts={}, docs="/docs/logs/r")


def check(name: str, *, passed: bool, unexpected: int | None = 0) -> CheckResult:
    """One outcome."""
    return CheckResult(
        name=name, grain="request", column=None, passed=passed, observed=5, expected="x", unexpected_count=unexpected
    )


def test_require_names_failures_with_counts_and_leaves_with_status_3() -> None:
    require(verdict_of(check("a", passed=True)))
    with pytest.raises(QualityGateError) as caught:
        require(verdict_of(check("a", passed=True), check("b.not_null", passed=False, unexpected=7)))
    assert caught.value.exit_code == 3
    assert "1 of 2 checks" in str(caught.value)
    assert "b.not_null" in str(caught.value)
    assert "(7 do not hold)" in str(caught.value)
    assert "a:" not in str(caught.value)


def test_a_verdict_is_saved_and_read_back(tmp_path: Path) -> None:
    verdict = verdict_of(check("a", passed=False, unexpected=None))
    path = verdict.save(tmp_path)
    assert Verdict.model_validate_json(path.read_text()) == verdict
    assert [p.name for p in tmp_path.iterdir()] == ["verdict.json"]


def test_the_verdict_lies_under_the_warehouse_or_where_the_settings_say(tmp_path: Path) -> None:
    local = Settings(warehouse=str(tmp_path))
    assert docs_directory(spec=spec_of(), settings=local, run_id="r1") == tmp_path / "_quality" / "logs" / "r1"
    named = Settings.model_validate({"warehouse": "s3://b/w", "quality": {"docs": str(tmp_path / "docs")}})
    assert docs_directory(spec=spec_of(), settings=named, run_id="r1") == tmp_path / "docs" / "logs" / "r1"


@pytest.mark.parametrize("docs", [None, "s3://bucket/docs"])
def test_a_remote_warehouse_needs_a_local_place_for_the_verdict(docs: str | None) -> None:
    settings = Settings.model_validate({"warehouse": "s3://b/w", "quality": {"docs": docs}})
    with pytest.raises(ConfigError, match=r"quality\.docs"):
        docs_directory(spec=spec_of(), settings=settings, run_id="r1")


@pytest.mark.parametrize("run_id", ["../../etc", "a/b", ".hidden", "", "a b"])
def test_a_run_id_cannot_leave_the_directory(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UnsafeNameError):
        docs_directory(spec=spec_of(), settings=Settings(warehouse=str(tmp_path)), run_id=run_id)


def test_a_feature_group_none_of_whose_rows_was_judged_is_told() -> None:
    facts = {"null_items": 0, "features.seen.log_keys": 0, "features.age.log_keys": 7, "features.age.missing_keys": 0}
    verdict = Verdict(passed=True, dataset="d", run_id="check-v1", checks=(), facts=facts, docs="docs")
    assert verdict.hints == ("the feature group seen is out of date everywhere: none of its rows was judged",)
