"""Runs rules through Great Expectations and leaves its Data Docs. The only module that imports it.

Counts are all that is kept of a failing check: no sample of the rows that broke it goes into results or Data Docs.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import shutil
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dedup_storage.errors import ConfigError, MissingDependencyError, StorageError
from dedup_storage.quality.expectations import Rule

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

__all__ = ["Batch", "Outcome", "evaluate", "require_installed", "warm_up"]

_PACKAGE = "great_expectations"
# BASIC with no partial list: unexpected_count, but not one unexpected value.
_RESULT_FORMAT = {"result_format": "BASIC", "partial_unexpected_count": 0}
_DOCS_PARTS = ("expectations", "validations", "static")
_ERROR_CLASS = re.compile(r"\[([A-Z0-9_.]{3,80})\]")


class Batch(NamedTuple):
    """Rows, and the rules over them.

    Attributes:
        name: Name of the suite in the Data Docs.
        frame: A Spark frame without lists, or a pandas frame of one row of facts.
        rules: Rules that read only columns of ``frame``.
    """

    name: str
    frame: DataFrame | pd.DataFrame
    rules: Sequence[Rule]


class Outcome(NamedTuple):
    """What became of one rule: whether it holds, its statistic, and how many rows break it."""

    passed: bool
    observed: int | float | None
    unexpected_count: int | None


def require_installed() -> None:
    """Check for Great Expectations without importing it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        raise MissingDependencyError(
            "the quality gate needs great-expectations, which is not installed",
            fix="Install dedup_storage[quality], or set quality.enabled: false.",
        )


def warm_up() -> None:
    """Begin to import Great Expectations in a thread: it takes seconds that Spark's staging can hide.

    Raises:
        MissingDependencyError: it is not installed.
    """
    require_installed()
    threading.Thread(target=_import, name="gate-warm-up", daemon=True).start()


def _import() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(_PACKAGE)


def evaluate(batches: Sequence[Batch], *, run_name: str, docs: Path) -> dict[str, Outcome]:
    """Run every batch's rules in one checkpoint each, and build the Data Docs of all of them.

    Args:
        batches: Rows and rules; a batch without rules is passed over.
        run_name: Shown in the Data Docs.
        docs: Directory that gets ``index.html``; earlier Data Docs in it are replaced.

    Returns:
        Rule name -> outcome, for every rule.

    Raises:
        MissingDependencyError: Great Expectations is not installed.
        ConfigError: one of the user's expectations has unfit arguments, or cannot be evaluated on its column.
        StorageError: a rule cannot be evaluated, for example since a staged file cannot be read.
    """
    require_installed()
    with _quiet():
        gx = _import()
        context = _context(gx, docs)
        outcomes: dict[str, Outcome] = {}
        for batch in batches:
            if batch.rules:
                outcomes.update(_run(gx, context, batch, run_name))
        context.build_data_docs()
    return outcomes


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's analytics, warnings and log lines away; they may quote rows."""
    log, variable = logging.getLogger(_PACKAGE), "GX_ANALYTICS_ENABLED"
    level, before = log.level, os.environ.get(variable)
    log.setLevel(logging.CRITICAL + 1)
    os.environ[variable] = "false"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before


def _context(gx: Any, docs: Path) -> Any:
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "index.html").unlink(missing_ok=True)
    for part in _DOCS_PARTS:
        shutil.rmtree(docs / part, ignore_errors=True)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    for site in list(context.list_data_docs_sites()):
        context.delete_data_docs_site(site)
    context.add_data_docs_site(
        site_name="gate",
        site_config={
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    return context


def _run(gx: Any, context: Any, batch: Batch, run_name: str) -> Iterator[tuple[str, Outcome]]:
    if hasattr(batch.frame, "sparkSession"):
        # Great Expectations would persist the frame and never release it.
        source = context.data_sources.add_spark(name=batch.name, persist=False)
    else:
        source = context.data_sources.add_pandas(name=batch.name)
    definition = source.add_dataframe_asset(name=batch.name).add_batch_definition_whole_dataframe(batch.name)
    suite = context.suites.add(gx.ExpectationSuite(name=batch.name))
    suite.expectations = [_expectation(gx, rule) for rule in batch.rules]
    suite.save()
    validation = context.validation_definitions.add(
        gx.ValidationDefinition(name=batch.name, data=definition, suite=suite)
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name=batch.name, validation_definitions=[validation], result_format=_RESULT_FORMAT)
    )
    found = checkpoint.run(batch_parameters={"dataframe": batch.frame}, run_id=gx.RunIdentifier(run_name=run_name))
    rules = {rule.name: rule for rule in batch.rules}
    for validated in found.run_results.values():
        for result in validated.results:
            rule = rules[result.expectation_config.meta["check"]]
            if not result.success:
                _require_evaluated(rule, result.exception_info)
            values = result.result
            observed = values.get("observed_value", values.get("element_count"))
            yield (
                rule.name,
                Outcome(
                    passed=bool(result.success),
                    observed=observed if isinstance(observed, (int, float)) else None,
                    unexpected_count=values.get("unexpected_count"),
                ),
            )


def _expectation(gx: Any, rule: Rule) -> Any:
    name = "".join(part.capitalize() for part in rule.type.split("_"))
    kind = getattr(gx.expectations, name, None)
    if kind is None:
        raise ConfigError(f"this release of great-expectations has no {rule.type}", fix="Install another release.")
    try:
        return kind(**rule.kwargs, meta={"check": rule.name, "grain": rule.grain, "notes": rule.expected})
    except (TypeError, ValueError) as error:
        # pydantic's first line names the argument; the rest repeats values of the file.
        reason = "; ".join(str(e["msg"]) for e in error.errors()) if hasattr(error, "errors") else str(error)
        raise ConfigError(f"the arguments of {rule.name} do not fit {rule.type}: {reason}") from None


def _require_evaluated(rule: Rule, info: Any) -> None:
    """Tell a rule that does not hold from one that could not be tried.

    Only the error's class is passed on: Spark's messages quote the value that it could not work with.
    """
    entries = [info] if "raised_exception" in (info or {}) else list((info or {}).values())
    messages = [str(e.get("exception_message")) for e in entries if isinstance(e, dict) and e.get("raised_exception")]
    if not messages:
        return
    found = _ERROR_CLASS.search(messages[0])
    reason = found.group(1) if found else "the engine raised an error"
    if rule.own:
        raise ConfigError(
            f"the expectation {rule.name} cannot be evaluated: {reason}",
            expected=f"arguments that fit the type of {rule.column or 'its columns'}",
            fix="Correct the file named by quality.expectations.",
        )
    raise StorageError(
        f"the check {rule.name} cannot be evaluated: {reason}", fix="Look for a staged file that cannot be read."
    )
