"""What the gate takes and what it gives: facts, check results, verdict. Pure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dedup_storage.errors import QualityGateError

__all__ = ["CheckGrain", "CheckResult", "GateFacts", "Verdict", "require"]

CheckGrain = Literal["request", "impression", "dataset"]
_MOST_NAMED = 12
# The fact of a feature group how many keys of the log it was held against.
_LOG_KEYS = ".log_keys"


class GateFacts(BaseModel):
    """Numbers that only the writer knows; ``None`` leaves out the checks that need them.

    Attributes:
        input_rows: Impressions in the input, before anything was set aside.
        quarantined_rows: Impressions set aside into the quarantine table.
        dropped_duplicates: Impressions left out because their key was there already.
        written_request_rows: Requests the writer says it wrote.
        written_impression_rows: Impressions the writer says it wrote.
        empty_requests: Requests without impressions in the input (0 for a flat log).
        inconstant_requests: Requests written although a request-grain column still differs inside them. ``None`` in
            flat layout lets the gate compare the staged rows itself, at the price of reading every list once more.
        existing_request_keys: Written request keys that the dataset holds already, outside what is replaced.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_rows: int | None = Field(default=None, ge=0)
    quarantined_rows: int = Field(default=0, ge=0)
    dropped_duplicates: int = Field(default=0, ge=0)
    written_request_rows: int | None = Field(default=None, ge=0)
    written_impression_rows: int | None = Field(default=None, ge=0)
    empty_requests: int | None = Field(default=None, ge=0)
    inconstant_requests: int | None = Field(default=None, ge=0)
    existing_request_keys: int | None = Field(default=None, ge=0)


class CheckResult(BaseModel):
    """One check's outcome.

    Attributes:
        name: Unique inside the verdict, e.g. ``request.user_id.not_null``.
        grain: What one checked row stands for; ``dataset`` is the one row of dataset facts.
        column: The column of the log it is about, where there is one.
        passed: Whether it holds.
        observed: A count or statistic; never a row's value.
        expected: The rule in words.
        unexpected_count: Rows (for dataset facts: things of the fact's kind) that break it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    grain: CheckGrain
    column: str | None
    passed: bool
    observed: int | float | None
    expected: str
    unexpected_count: int | None


class Verdict(BaseModel):
    """The gate's answer, saved as ``verdict.json`` beside the Data Docs.

    Attributes:
        passed: Whether every check holds.
        dataset: Dataset name.
        run_id: The audited run.
        checks: All checks.
        facts: Dataset facts by name: rows, duplicates, orphans.
        docs: Directory of this verdict and its Data Docs (``index.html``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool
    dataset: str
    run_id: str
    checks: tuple[CheckResult, ...]
    facts: dict[str, int | float]
    docs: str

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def hints(self) -> tuple[str, ...]:
        """What is no reason to refuse the rows and shall be known."""
        odd = [c for c in self.checks if c.passed and c.grain != "dataset" and c.unexpected_count]
        found = [f"{c.column}: {c.unexpected_count} {c.grain} rows are not as expected: {c.expected}" for c in odd]
        items = self.facts.get("null_items")
        unjudged = [name.split(".")[1] for name, count in self.facts.items() if name.endswith(_LOG_KEYS) and not count]
        return (
            *found,
            *([f"{items} impressions have no item"] if items else []),
            *(f"the feature group {name} is out of date everywhere: none of its rows was judged" for name in unjudged),
        )

    def with_group(self, name: str, verdict: Verdict) -> Verdict:
        """This verdict and that on a feature group in one."""
        facts = {f"features.{name}.{fact}": value for fact, value in verdict.facts.items()}
        return self.model_copy(
            update={
                "passed": self.passed and verdict.passed,
                "checks": (*self.checks, *verdict.checks),
                "facts": {**self.facts, **facts},
            }
        )

    def save(self, directory: Path) -> Path:
        """Write ``verdict.json`` whole or not at all; return its path."""
        path = directory / "verdict.json"
        staged = directory / ".verdict.json.tmp"
        staged.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(staged, path)
        return path


def require(verdict: Verdict) -> None:
    """Let a passed verdict through.

    Raises:
        QualityGateError: names the failing checks with their counts, and no value of any row.
    """
    failures = verdict.failures
    if not failures:
        return
    named = [_clause(check) for check in failures[:_MOST_NAMED]]
    if len(failures) > _MOST_NAMED:
        named.append(f"and {len(failures) - _MOST_NAMED} more")
    raise QualityGateError(
        f"the quality gate refused run {verdict.run_id} of dataset {verdict.dataset}: "
        f"{len(failures)} of {len(verdict.checks)} checks failed: {'; '.join(named)}",
        fix=f"Nothing was published. See {Path(verdict.docs) / 'index.html'} and verdict.json beside it.",
    )


def _clause(check: CheckResult) -> str:
    broken = check.unexpected_count
    count = "" if broken is None else f" ({broken} {'does' if broken == 1 else 'do'} not hold)"
    observed = "" if check.unexpected_count is not None or check.observed is None else f" (observed {check.observed})"
    return f"{check.name}: expected {check.expected}{count}{observed}"
