"""Which steps a maintenance takes, and which limits count in each: a limit of another step is refused. Pure.

A limit at its default was not asked for, whoever spelled it out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from dedup_storage.dataset.upkeep.decay import Limits
from dedup_storage.errors import UsageError
from dedup_storage.lake.upkeep import Policy
from dedup_storage.layout import DatasetSpec

__all__ = ["idle_steps", "refuse_idle_limits"]

_STEPS = ("runs", "compact", "events", "expire", "orphans")
# Limit -> the steps that ask for it.
_COUNTS_IN: Mapping[str, tuple[str, ...]] = {
    "hidden_share": ("compact",),
    "overlapping_files": ("compact",),
    "files": ("compact",),
    "target_file_bytes": ("compact",),
    "unreferenced_share": ("events",),
    "runs_share": ("runs",),
    "keep_versions": ("expire",),
    "keep_days": ("expire",),
    # What runs have staged goes with expiry, files that nothing names with the orphans.
    "orphan_days": ("expire", "orphans"),
    "abandoned_days": ("expire",),
}


def refuse_idle_limits(taken: Collection[str], limits: Limits, policy: Policy) -> None:
    """Refuse limits that count in no step that is taken.

    Args:
        taken: Names of the steps.
        limits, policy: As they were given.

    Raises:
        UsageError: names the first, its step and what to do.
    """
    for name, value in _given(limits, policy):
        steps = _COUNTS_IN[name]
        if not {*steps} & {*taken}:
            take = " or ".join(f"{step}=True (--only {step} beside --only of the others)" for step in steps)
            raise UsageError(
                f"{_option(name)} changes nothing: it counts in the step {' and in '.join(steps)}, which is not taken",
                expected=f"limits of the steps that are taken: {_listed(taken)}",
                got=f"{name} {value}",
                fix=f"Leave {name} out; or take the step too: {take}.",
            )


def idle_steps(spec: DatasetSpec, steps: Collection[str]) -> Iterator[str]:
    """Sentences on steps that have nothing to do in a dataset: no mistake where a job maintains many datasets alike.

    Args:
        spec: The dataset.
        steps: Names of steps that were asked for.
    """
    idle = {}
    if spec.adopted:
        idle["compact"] = "a log that lies as it was adopted is never compacted"
    if not spec.events:
        idle["runs"] = "only a dataset that stores each event once has lists to lay anew"
        idle["events"] = "only a dataset that stores each event once has events to drop"
    for step in _STEPS:
        if step in steps and step in idle:
            yield f"the step {step} has nothing to do in {spec.name}: {idle[step]}"


def _given(*models: BaseModel) -> Iterator[tuple[str, Any]]:
    """Limits that are not at their defaults, and their values."""
    for model in models:
        for name, field in type(model).model_fields.items():
            if getattr(model, name) != field.default:
                yield name, getattr(model, name)


def _option(name: str) -> str:
    """A limit as Python and the command spell it; three have no option."""
    bare = name in ("overlapping_files", "files", "target_file_bytes")
    return name if bare else f"{name} (--{name.replace('_', '-')})"


def _listed(steps: Collection[str]) -> str:
    return ", ".join(step for step in _STEPS if step in steps) or "none"
