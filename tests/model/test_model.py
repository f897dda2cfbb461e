"""The protocol holds in every order of every step of a few actors; the one of an earlier release does not."""

from __future__ import annotations

import pytest

from tests.model.explore import explore, published_first
from tests.model.protocol import Actor, Protocol

NOW, FORMER, AT_ONCE = Protocol(), Protocol(holds=False), Protocol(one_commit=True)
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


@pytest.mark.parametrize(
    ("modes", "others", "crashes"),
    [
        (["replace"], [EXPIRY, COMPACTION, ABANDONER], 1),
        (["append", "append"], [ABANDONER], 1),
        (["append", "replace"], [], 2),
    ],
)
def test_every_order_where_all_tables_may_be_committed_at_once(
    modes: list[str], others: list[Actor], crashes: int
) -> None:
    """By some actors, some of the time: the states are those that table after table leads to, too."""
    found = explore(AT_ONCE, published_first(NOW), [*runs(*modes), *others], crashes)
    assert found.faults == ()
    assert "published" in found.ends


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [NOW, AT_ONCE])
@pytest.mark.parametrize(
    ("modes", "others"),
    [
        (["append", "replace"], [EXPIRY, COMPACTION]),
        (["append", "marks"], [COMPACTION, ABANDONER]),
        (["append", "append"], [EXPIRY, ABANDONER]),
        (["replace", "replace"], [ABANDONER]),
    ],
)
def test_two_runs_beside_others(modes: list[str], others: list[Actor], protocol: Protocol) -> None:
    found = explore(protocol, published_first(NOW), [*runs(*modes), *others], 1)
    assert found.faults == ()


def test_the_former_protocol_loses_rows_to_an_expiry() -> None:
    """An expiry between staging and decision: the version had the rows of the one before."""
    found = explore(FORMER, published_first(FORMER), [*runs("append"), EXPIRY], 0)
    assert "version 2 of run run0 (append): rows are missing or too many in other" in found.faults


def test_the_former_protocol_is_stuck_after_a_compaction() -> None:
    """A compaction between the look and the decision of a replacement: nobody could write any more."""
    found = explore(FORMER, published_first(FORMER), [*runs("replace"), COMPACTION], 0)
    assert "nobody can write any more: the next run ends as stuck" in found.faults


def test_a_catalog_that_compares_too_little_publishes_what_was_given_up() -> None:
    """Between the look of a completion and its commit the version is given up: the commit must rest on the hold."""
    found = explore(Protocol(compares=False), published_first(NOW), [*runs("append"), ABANDONER], 0)
    assert "version 2 is published and given up" in found.faults
