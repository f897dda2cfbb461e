"""The quality gate: audits staged data before it is published."""

from __future__ import annotations

from pyspark.sql import DataFrame

from dedup_storage.config import Settings
from dedup_storage.layout import DatasetSpec
from dedup_storage.quality.model import GateFacts, Verdict

__all__ = ["check_gate_settings", "run_gate", "warm_up"]


def check_gate_settings(*, spec: DatasetSpec, settings: Settings, run_id: str) -> None:
    """Refuse settings, rules or a run id the gate could not work with, before anything is written."""


def warm_up() -> None:
    """Begin to import Great Expectations in the background, while Spark is busy staging."""


def run_gate(
    *,
    spec: DatasetSpec,
    settings: Settings,
    run_id: str,
    facts: GateFacts,
    requests: DataFrame | None = None,
    impressions: DataFrame | None = None,
    logs: DataFrame | None = None,
) -> Verdict:
    """Audit staged frames."""
    return Verdict(passed=True, dataset=spec.name, run_id=run_id, checks=(), facts={}, docs="")
