"""The protocol holds in every order of every step of a few actors; the one of an earlier release does not."""

from __future__ import annotations

import pytest

from tests.model.explore import explore, published_first
from tests.model.protocol import Actor, Protocol

NOW, FORMER = Protocol(holds=True), Protocol(holds=False)
EXPIRY, COMPACTION, ABANDONER = Actor("x", "expiry"), Actor("c", "compaction"), Actor("q", "abandoner")


def runs(*modes: str) -> list[Actor]:
    return [Actor(f"run{n}", "run", mode=mode) for n, mode in enumerate(modes)]


@pytest.mark.parametrize(
    ("modes", "others", "crashes"),
    [
        (["append"], [EXPIRY, COMPACTION, ABANDONER], 1),
        (["replace"], [EXPIRY, COMPACTION, ABANDONER], 1),
        (["marks"], [EXPIRY, COMPACTION, ABANDONER], 1),
        (["append", "append"], [EXPIRY], 1),
        (["append", "replace"], [], 2),
    ],
)
def test_every_order_of_every_step(modes: list[str], others: list[Actor], crashes: int) -> None:
    found = explore(NOW, published_first(NOW), [*runs(*modes), *others], crashes)
    assert found.faults == ()
    assert found.states > 100
    assert "published" in found.ends


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modes", "others"),
    [
        (["append", "replace"], [EXPIRY, COMPACTION]),
        (["append", "marks"], [COMPACTION, ABANDONER]),
        (["append", "append"], [EXPIRY, ABANDONER]),
        (["replace", "replace"], [ABANDONER]),
    ],
)
def test_two_runs_beside_others(modes: list[str], others: list[Actor]) -> None:
    found = explore(NOW, published_first(NOW), [*runs(*modes), *others], 1)
    assert found.faults == ()


def test_the_former_protocol_loses_rows_to_an_expiry() -> None:
    """An expiry between staging and decision: the version had the rows of the one before."""
    found = explore(FORMER, published_first(FORMER), [*runs("append"), EXPIRY], 0)
    assert "version 2 of run run0 (append): rows are missing or too many in other" in found.faults


def test_the_former_protocol_is_stuck_after_a_compaction() -> None:
    """A compaction between the look and the decision of a replacement: nobody could write any more."""
    found = explore(FORMER, published_first(FORMER), [*runs("replace"), COMPACTION], 0)
    assert "nobody can write any more: the next run ends as stuck" in found.faults
