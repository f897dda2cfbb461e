"""Limits of steps that are not taken, and steps that a dataset has nothing for: refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from dedup_storage.dataset.upkeep import Limits, Policy
from dedup_storage.dataset.upkeep.steps import _COUNTS_IN, idle_steps, refuse_idle_limits
from dedup_storage.errors import UsageError
from dedup_storage.event_groups import ProposedGroup
from dedup_storage.layout import DatasetSpec, Layout
from dedup_storage.schema import DateGrain, LogSchema

DEFAULT = ("compact", "events", "expire", "orphans")
OTHERS: dict[str, Any] = {
    "hidden_share": 0.1, "overlapping_files": 2, "files": 9, "target_file_bytes": 1, "unreferenced_share": 0,
    "runs_share": 0.1, "keep_versions": 1, "keep_days": 0, "orphan_days": 9, "abandoned_days": 9,
}  # fmt: skip


def spec(layout: Layout) -> DatasetSpec:
    schema = LogSchema.from_dict(
        {"user": "u", "request": "r", "item": "i", "sequences": [{"column": "seen"}], "columns": {"seen": "request"}}
    )
    source = {"u": "bigint", "r": "bigint", "i": "bigint", "seen": "array<bigint>"}
    groups = [ProposedGroup("seen", ("seen",), False)] if layout is Layout.USER else []
    return DatasetSpec.build(
        "clicks", schema, source, layout=layout, date_grain=DateGrain.NONE, buckets=1, groups=groups
    )


def limits(name: str) -> tuple[Limits, Policy]:
    given = {name: OTHERS[name]}
    of_limits = name in Limits.model_fields
    return Limits(**given if of_limits else {}), Policy(**{} if of_limits else given)


def test_every_limit_belongs_to_a_step() -> None:
    assert set(_COUNTS_IN) == {*Limits.model_fields, *Policy.model_fields} == set(OTHERS)


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_limit_of_a_step_that_is_not_taken(name: str) -> None:
    """It was ignored: a run with it did what one without it does."""
    steps = _COUNTS_IN[name]
    for taken in steps:
        refuse_idle_limits([taken], *limits(name))
    refuse_idle_limits((), Limits(), Policy())
    others = {"runs", *DEFAULT} - {*steps}
    with pytest.raises(UsageError, match=rf"^{name}.* changes nothing: it counts in the step {steps[0]}") as refused:
        refuse_idle_limits(others, *limits(name))
    assert f"{steps[0]}=True (--only {steps[0]} beside --only of the others)" in str(refused.value)
    assert f"Leave {name} out" in str(refused.value)


def test_steps_that_a_dataset_has_nothing_for() -> None:
    """They are told, not refused: one job maintains datasets of all layouts."""
    asked = ("runs", "events", "expire")
    assert [told.split(":")[0] for told in idle_steps(spec(Layout.SPLIT), asked)] == [
        "the step runs has nothing to do in clicks", "the step events has nothing to do in clicks"
    ]  # fmt: skip
    assert not list(idle_steps(spec(Layout.USER), asked))
    adopted = spec(Layout.SPLIT).model_copy(update={"adopted": True})
    assert "never compacted" in next(idle_steps(adopted, ("compact",)))
