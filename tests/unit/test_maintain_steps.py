"""Limits of steps that are not taken, and steps that a dataset has nothing for: refused by name."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from dedup_storage.dataset.upkeep import Limits, Policy
from dedup_storage.dataset.upkeep.steps import _COUNTS_IN, refuse_idle_limits, refuse_idle_steps
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
    assert f"{steps[0]}=True (--only {steps[0]})" in str(refused.value)
    assert f"leave {name} out" in str(refused.value)


@pytest.mark.parametrize(
    ("taken", "asked", "name", "told"),
    [
        (("runs", "events"), ("runs",), None, "the step runs does nothing in clicks: only a dataset that stores each"),
        (DEFAULT, (), "unreferenced_share", r"unreferenced_share \(--unreferenced-share\) changes nothing in clicks"),
        (("events",), (), None, "no step is taken that does anything in clicks"),
        ((), (), None, "no step is taken .*expected one or more of compact, expire, orphans"),
    ],
)
def test_what_a_dataset_has_nothing_for(
    taken: Collection[str], asked: Collection[str], name: str | None, told: str
) -> None:
    given = (Limits(), Policy()) if name is None else limits(name)
    with pytest.raises(UsageError, match=told):
        refuse_idle_steps(spec(Layout.SPLIT), taken, asked, *given)
    if taken:
        refuse_idle_steps(spec(Layout.USER), taken, asked, *given)
    refuse_idle_steps(spec(Layout.SPLIT), (), (), Limits(), Policy(), bundles=True)
