"""The quality gate of feature groups: staged rows against the keys that the log has.

Equal numbers of keys and equal sums of their hashes show that both sides hold the same keys, each once, in two scans
of narrow columns without a shuffle. Only where they differ are the keys compared one by one, to count what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.errors import StorageError
from dedup_storage.lake.groups import FeatureGroup
from dedup_storage.layout import DatasetSpec
from dedup_storage.quality.expect import Batch, evaluate
from dedup_storage.quality.expectations import Rule, zero_rule
from dedup_storage.quality.gate import docs_directory
from dedup_storage.quality.model import CheckResult, Verdict
from dedup_storage.spark.rows import only_row

__all__ = ["feature_facts", "run_feature_gate"]

_LOW_BITS = 0xFFFFFFFF


def run_feature_gate(
    *, spec: DatasetSpec, settings: Settings, run_id: str, group: FeatureGroup, staged: DataFrame, keys: DataFrame
) -> Verdict:
    """Audit a feature group's staged rows; save the verdict as JSON and the Data Docs as HTML.

    Args:
        spec: The dataset.
        settings: Where the verdict goes.
        run_id: The audited run.
        group: Its definition.
        staged: The rows that the run computed, read from the staged snapshot.
        keys: The keys that the log has where the run computed rows, the event date beside them, each once.

    Returns:
        The verdict, passed or not; ``require`` raises on it.

    Raises:
        StorageError: staged rows cannot be read, or the verdict cannot be saved.
    """
    import pandas as pd

    directory = docs_directory(spec=spec, settings=settings, run_id=run_id)
    facts = feature_facts(group, staged, keys)
    rules = tuple(_rules(group))
    # The file is named for the group: a fact's name may hold the group's columns.
    outcomes = evaluate([Batch(f"feature_{group.name}", pd.DataFrame([facts]), rules)], run_name=run_id, docs=directory)
    checks = tuple(
        CheckResult(
            name=rule.name,
            grain="dataset",
            column=rule.column,
            passed=outcomes[rule.name].passed,
            observed=facts[rule.columns[0]],
            expected=rule.expected,
            unexpected_count=facts[rule.columns[0]],
        )
        for rule in rules
    )
    verdict = Verdict(
        passed=all(check.passed for check in checks),
        dataset=spec.name,
        run_id=run_id,
        checks=checks,
        facts=dict(facts),
        docs=str(directory),
    )
    try:
        verdict.save(directory)
    except OSError as error:
        raise StorageError(
            f"the verdict cannot be saved under {directory}: {error.strerror}", fix="Correct quality.docs."
        ) from error
    return verdict


def feature_facts(group: FeatureGroup, staged: DataFrame, keys: DataFrame) -> dict[str, int]:
    """Counts over staged rows: rows, keys of the log, duplicate, surplus and missing keys, nulls by column."""
    key = keys.columns
    checked = [c.name for c in group.columns if c.not_null]
    # Both sides in one query.
    sides = staged.select(*key, *checked, F.lit(True).alias("_gate_staged")).unionByName(
        keys.select(*key, F.lit(False).alias("_gate_staged")), allowMissingColumns=True
    )
    ours = F.col("_gate_staged")
    nulls = [F.count_if(ours & F.col(c).isNull()).alias(f"n{i}") for i, c in enumerate(checked)]
    row = only_row(sides.agg(*_sums(key, "have", ours), *_sums(key, "want", ~ours), *nulls))
    have, want = ({s: row[f"{side}_{s}"] for s in ("rows", "low", "high")} for side in ("have", "want"))
    facts = {"feature_rows": int(have["rows"]), "log_keys": int(want["rows"])}
    if have == want:
        facts |= {"duplicate_keys": 0, "surplus_keys": 0, "missing_keys": 0}
    else:
        facts |= _compared(key, staged, keys)
    return facts | {f"nulls_{c}": int(row[f"n{i}"]) for i, c in enumerate(checked)}


def _sums(key: Sequence[str], side: str, ours: Column) -> tuple[Column, ...]:
    """Rows of one side, and sums of the hashes of their keys."""
    # Two sums of 32 bits each: one of 64 bits would overflow.
    digest = F.when(ours, F.xxhash64(*key))
    return (
        F.count_if(ours).alias(f"{side}_rows"),
        F.sum(digest.bitwiseAND(F.lit(_LOW_BITS))).alias(f"{side}_low"),
        F.sum(F.shiftrightunsigned(digest, 32)).alias(f"{side}_high"),
    )


def _compared(key: Sequence[str], staged: DataFrame, keys: DataFrame) -> dict[str, int]:
    both = keys.select(*key, F.lit(0).alias("_have")).unionByName(staged.select(*key, F.lit(1).alias("_have")))
    have, want = F.sum("_have"), F.count_if(F.col("_have") == 0)
    counted = both.groupBy(*key).agg(have.alias("_h"), want.alias("_w"))
    h, w = F.col("_h"), F.col("_w")
    row = only_row(
        counted.agg(
            F.sum(F.when(h > 1, h - 1).otherwise(0)).alias("duplicate_keys"),
            F.count_if((h > 0) & (w == 0)).alias("surplus_keys"),
            F.count_if((h == 0) & (w > 0)).alias("missing_keys"),
        )
    )
    return {name: int(row[name] or 0) for name in ("duplicate_keys", "surplus_keys", "missing_keys")}


def _rules(group: FeatureGroup) -> Iterator[Rule]:
    yield _named(group, zero_rule("duplicate_keys", "every key once"))
    yield _named(group, zero_rule("surplus_keys", "no key that the log has not"))
    if group.missing == "refuse":
        yield _named(group, zero_rule("missing_keys", "a row for every key of the log"))
    for column in group.columns:
        if column.not_null:
            rule = _named(group, zero_rule(f"nulls_{column.name}", "no null"))
            yield rule.model_copy(
                update={"column": column.name, "name": f"features.{group.name}.{column.name}.not_null"}
            )


def _named(group: FeatureGroup, rule: Rule) -> Rule:
    return rule.model_copy(update={"name": f"features.{group.name}.{rule.name.removeprefix('dataset.')}"})
