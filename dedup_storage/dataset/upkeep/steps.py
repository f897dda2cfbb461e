"""Which steps a maintenance takes, and which limits count in each: what would change nothing is refused by name. Pure.

A limit at its default was not asked for, whoever spelled it out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

from dedup_storage.dataset.upkeep.decay import Limits
from dedup_storage.errors import UsageError
from dedup_storage.lake.upkeep import Policy
from dedup_storage.layout import DatasetSpec

__all__ = ["refuse_idle_limits", "refuse_idle_steps"]

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
    for name in _given(limits, policy):
        steps = _COUNTS_IN[name]
        if not {*steps} & {*taken}:
            take = " or ".join(f"{step}=True (--only {step})" for step in steps)
            raise UsageError(
                f"{_option(name)} changes nothing: it counts in the step {' and in '.join(steps)}, which is not taken",
                expected=f"limits of the steps that are taken: {_listed(taken)}",
                got=f"{name} {_value(name, limits, policy)}",
                fix=f"Take the step, {take}, or leave {name} out.",
            )


def refuse_idle_steps(
    spec: DatasetSpec,
    taken: Collection[str],
    asked: Collection[str],
    limits: Limits,
    policy: Policy,
    *,
    bundles: bool = False,
) -> None:
    """Refuse what changes nothing in a dataset: steps that were asked for by name, and limits of steps.

    Args:
        spec: The dataset.
        taken: Names of the steps.
        asked: Those of them that nobody takes by default, or that were named.
        limits, policy: As they were given.
        bundles: Whether feature groups are bundled too.

    Raises:
        UsageError: names the step or the limit and says why.
    """
    idle = _idle(spec)
    for step in _STEPS:
        if step in asked and step in idle:
            raise UsageError(
                f"the step {step} does nothing in {spec.name}: {idle[step]}",
                got=_kind(spec),
                fix=f"Leave out {step}=True (--only {step}).",
            )
    left = [step for step in _STEPS if step in taken and step not in idle]
    if not left and not bundles:
        raise UsageError(
            f"no step is taken that does anything in {spec.name}",
            expected="one or more of " + _listed({*_STEPS} - idle.keys()),
            got=_listed(taken),
        )
    for name in _given(limits, policy):
        steps = _COUNTS_IN[name]
        if {*steps} <= idle.keys():
            raise UsageError(
                f"{_option(name)} changes nothing in {spec.name}: it counts in the step {steps[0]}, and "
                f"{idle[steps[0]]}",
                got=_kind(spec),
                fix=f"Leave {name} out.",
            )
    refuse_idle_limits(left, limits, policy)


def _idle(spec: DatasetSpec) -> dict[str, str]:
    """Steps that have nothing to do in a dataset -> why."""
    found = {}
    if spec.adopted:
        found["compact"] = "a log that lies as it was adopted is never compacted"
    if not spec.events:
        found["runs"] = "only a dataset that stores each event once has lists to lay anew"
        found["events"] = "only a dataset that stores each event once has events to drop"
    return found


def _kind(spec: DatasetSpec) -> str:
    return f"layout {spec.layout.value}{', adopted' if spec.adopted else ''}"


def _given(*models: BaseModel) -> list[str]:
    fields = ((model, name, field) for model in models for name, field in type(model).model_fields.items())
    return [name for model, name, field in fields if getattr(model, name) != field.default]


def _value(name: str, *models: BaseModel) -> Any:
    return next(getattr(model, name) for model in models if name in type(model).model_fields)


def _option(name: str) -> str:
    """A limit as Python and the command spell it; three have no option."""
    bare = name in ("overlapping_files", "files", "target_file_bytes")
    return name if bare else f"{name} (--{name.replace('_', '-')})"


def _listed(steps: Collection[str]) -> str:
    return ", ".join(step for step in _STEPS if step in steps) or "none"
