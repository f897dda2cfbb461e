"""The quality gate: audits staged data before it is published.

    write stages snapshots -> run_gate reads them and judges -> require lets a passed verdict through -> publish

One job reads the staged rows: the lists of each request once, and of the impressions only keys and positions. Its
short request rows are cached, so the rules about requests read no file again; those about impressions read the columns
that they check.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dedup_storage.config import Settings
from dedup_storage.errors import StorageError, UnsafeNameError, UsageError
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.quality.expect import Batch, Outcome, evaluate, require_installed, warm_up
from dedup_storage.quality.expectations import Rule, build_rules
from dedup_storage.quality.facts import audited, narrow_rows, with_writer_facts
from dedup_storage.quality.model import CheckResult, GateFacts, Verdict
from dedup_storage.quality.own import own_rules
from dedup_storage.spark.rows import only_row

__all__ = ["check_gate_settings", "docs_directory", "run_gate", "warm_up"]

# Airflow's run ids hold times with offsets; a slash or a leading dot could leave the directory.
_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+@=-]{0,199}")


def check_gate_settings(*, spec: DatasetSpec, settings: Settings, run_id: str) -> None:
    """Refuse what the gate could not work with, before anything is written.

    Raises:
        ConfigError: no place for the verdict, or an unfit entry in the user's expectations.
        SchemaError: a check of the schema does not fit its column.
        UnsafeNameError: the run id cannot name a directory.
        MissingDependencyError: Great Expectations is not installed.
    """
    require_installed()
    docs_directory(spec=spec, settings=settings, run_id=run_id)
    build_rules(spec, GateFacts())
    if settings.quality.expectations is not None:
        own_rules(settings.quality.expectations, spec)


def docs_directory(*, spec: DatasetSpec, settings: Settings, run_id: str) -> Path:
    """Directory of one run's verdict and Data Docs: ``<quality.docs>/<dataset>/<run id>``.

    Raises:
        ConfigError: quality.docs is not a local directory, or is missing while the warehouse is remote.
        UnsafeNameError: the run id cannot name a directory.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise UnsafeNameError(
            f"the run id {run_id[:80]!r} cannot name a directory",
            expected="letters, digits and _ . : + @ = -, at most 200 characters, not starting with a sign or a dot",
        )
    return settings.docs_folder / spec.name / run_id


def run_gate(
    *,
    spec: DatasetSpec,
    settings: Settings,
    run_id: str,
    facts: GateFacts,
    requests: DataFrame | None = None,
    impressions: DataFrame | None = None,
    logs: DataFrame | None = None,
    derived: bool = False,
) -> Verdict:
    """Audit staged frames; save the verdict as JSON and the Data Docs as HTML.

    Hand in frames that read the staged snapshots: only the new rows for an append. The session's settings stay as
    they are, the lists are projected away before anything is cached or reaches Great Expectations, and what is cached
    (one short row per request) is released at the end.

    Args:
        spec: The dataset.
        settings: Where the verdict goes, and the user's own expectations.
        run_id: The audited run; running it again replaces its verdict.
        facts: What only the writer knows.
        requests, impressions: The staged rows of split layout.
        logs: The staged rows of flat layout.
        derived: ``requests`` has what rules read of its lists, and not the lists (``with_derived``).

    Returns:
        The verdict, passed or not; ``require`` raises on it.

    Raises:
        UsageError: the frames do not fit the layout.
        ConfigError, SchemaError, UnsafeNameError, MissingDependencyError: as ``check_gate_settings``.
        StorageError: staged data cannot be read, or the verdict cannot be saved.
    """
    directory = docs_directory(spec=spec, settings=settings, run_id=run_id)
    own = own_rules(settings.quality.expectations, spec) if settings.quality.expectations is not None else ()
    rules = (*build_rules(spec, facts), *own)
    rows = _rows(spec, requests=requests, impressions=impressions, logs=logs)
    names = [column for rule in rules if rule.grain == "request" for column in rule.columns]
    if spec.event_date_column is not None:
        names.append(spec.event_date_column)
    constancy = spec.layout is Layout.FLAT and facts.inconstant_requests is None
    try:
        staged = audited(spec, names, requests=requests, impressions=rows, constancy=constancy, derived=derived)
        with staged as audit:
            known = with_writer_facts(audit.counts, facts)
            batches = _batches(spec, rules, audit.requests, rows, known)
            outcomes = evaluate(batches, run_name=run_id, docs=directory)
            refused = [rule for rule in rules if rule.name.endswith(".max_length") and not outcomes[rule.name].passed]
            longest = {rule.name: _longest(spec, rule, audit.requests) for rule in refused}
        checks = tuple(_result(rule, outcomes[rule.name], known, longest.get(rule.name, "")) for rule in rules)
        verdict = Verdict(
            passed=all(check.passed for check in checks),
            dataset=spec.name,
            run_id=run_id,
            checks=checks,
            facts=known,
            docs=str(directory),
        )
        verdict.save(directory)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"the verdict cannot be saved under {directory}: {error.strerror}", fix="Correct quality.docs."
        ) from error
    return verdict


def _rows(
    spec: DatasetSpec, *, requests: DataFrame | None, impressions: DataFrame | None, logs: DataFrame | None
) -> DataFrame:
    """The frame whose rows are impressions."""
    if spec.layout is Layout.FLAT:
        if logs is not None and requests is None and impressions is None:
            return logs
    elif requests is not None and impressions is not None and logs is None:
        return impressions
    frames = {"requests": requests, "impressions": impressions, "logs": logs}
    raise UsageError(
        f"the frames to audit do not fit the layout of dataset {spec.name}",
        expected="logs" if spec.layout is Layout.FLAT else "requests and impressions",
        got=", ".join(name for name, frame in frames.items() if frame is not None) or "none",
    )


def _batches(
    spec: DatasetSpec,
    rules: Sequence[Rule],
    requests: DataFrame,
    impressions: DataFrame,
    known: Mapping[str, int | float],
) -> list[Batch]:
    import pandas as pd

    by_grain = {grain: [r for r in rules if r.grain == grain] for grain in ("request", "impression", "dataset")}
    # A rule about the table alone (its row count) still needs a frame with a column.
    names = [c for rule in by_grain["impression"] for c in rule.columns] or [spec.position_column]
    return [
        Batch("requests", requests, by_grain["request"]),
        Batch("impressions", narrow_rows(impressions, spec, names), by_grain["impression"]),
        Batch("dataset", pd.DataFrame([known]), by_grain["dataset"]),
    ]


def _longest(spec: DatasetSpec, rule: Rule, requests: DataFrame) -> str:
    """How long the longest list is, and the event date on which it lies; no user's id."""
    date = spec.event_date_column
    day = F.lit("") if date is None else F.col(date).cast("string")
    best = F.max(F.struct(F.col(rule.columns[0]).alias("length"), day.alias("day"))).alias("best")
    row = only_row(requests.agg(best))["best"]
    return f"; the longest has {row['length']:,}" + (f", on {row['day']}" if row["day"] else "")


def _result(rule: Rule, outcome: Outcome, known: Mapping[str, int | float], more: str = "") -> CheckResult:
    observed, unexpected, expected = outcome.observed, outcome.unexpected_count, rule.expected + more
    if rule.grain == "dataset" and rule.columns:
        # Of one row of facts the count of failing rows says nothing; the fact does.
        observed = known[rule.columns[0]]
        unexpected = None
        if not rule.own and len(rule.columns) == 1:
            unexpected = int(observed)
        elif not rule.own:
            other = known[rule.columns[1]]
            unexpected, expected = int(abs(observed - other)), f"{other}: {rule.expected}"
    return CheckResult(
        name=rule.name,
        grain=rule.grain,
        column=rule.column,
        passed=outcome.passed,
        observed=observed,
        expected=expected,
        unexpected_count=unexpected,
    )
