"""Every state that some actors can bring a lake into, and what must hold in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.model.actors import Actors
from tests.model.lake import ANCHOR, OTHER, Lake
from tests.model.protocol import Actor, Protocol

__all__ = ["Found", "explore", "published_first"]

_MOST_STEPS = 200


@dataclass(frozen=True)
class Found:
    """What an exploration saw.

    Attributes:
        states: Distinct states.
        faults: What was wrong, in words; none, if all is well.
        ends: How actors ended.
    """

    states: int
    faults: tuple[str, ...]
    ends: frozenset[str]


def explore(protocol: Protocol, begin: Lake, actors: Sequence[Actor], crashes: int) -> Found:
    """Run some actors in every order, with up to so many crashes at any step.

    Args:
        protocol: What they keep.
        begin: The lake before.
        actors: Who is at work.
        crashes: How many of them may stop for good.
    """
    steps = Actors(protocol)
    first = (begin, tuple(actors), crashes)
    seen, waiting = {first}, [first]
    faults: dict[str, None] = {}
    ends: set[str] = set()
    while waiting:
        lake, present, left = waiting.pop()
        for fault in _faults(lake):
            faults[fault] = None
        moved = False
        for place, actor in enumerate(present):
            if actor.step == "ended":
                ends.add(actor.ended)
                continue
            following = steps.successors(lake, actor)
            moved = moved or bool(following)
            if left and actor.kind == "run":
                following = [*following, (lake, actor.end("crashed"))]
            for now, after in following:
                fewer = left - (after.ended == "crashed")
                state = (now, (*present[:place], after, *present[place + 1 :]), fewer)
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)
        if not moved:
            for fault in _dead_end(protocol, lake):
                faults[fault] = None
        if len(faults) > 20:
            break
    return Found(len(seen), tuple(faults), frozenset(ends))


def published_first(protocol: Protocol) -> Lake:
    """A lake with one version, of the run ``first``."""
    lake, end = _alone(protocol, Lake(), Actor("first", "run"))
    assert end == "published"
    return lake


def _alone(protocol: Protocol, lake: Lake, actor: Actor) -> tuple[Lake, str]:
    """An actor runs to its end, alone."""
    steps = Actors(protocol)
    for _ in range(_MOST_STEPS):
        following = steps.successors(lake, actor)
        if not following:
            return lake, actor.ended or "waits"
        lake, actor = following[0]
    return lake, "never ends"


def _faults(lake: Lake) -> list[str]:
    """What must hold at any time: every published version is whole, and is what its run made of its parent."""
    found = []
    for version in lake.versions:
        claim = lake.claim(version)
        if claim is None:
            found.append(f"version {version} has no claim")
            continue
        _, _, run, mode, parent, _ = claim
        for name in (OTHER, ANCHOR):
            table = lake.table(name)
            number, before = table.ref(f"v{version}"), table.ref(f"v{parent}") if parent else None
            wanted = frozenset({run}) | (frozenset() if mode == "replace" else table.rows(before))
            if number is None or number not in table.alive:
                found.append(f"version {version} of run {run} ({mode}) lacks the table {name}")
            elif table.rows(number) != wanted:
                found.append(f"version {version} of run {run} ({mode}): rows are missing or too many in {name}")
        if any(given_up == version for given_up, *_ in lake.abandoned):
            found.append(f"version {version} is published and given up")
    runs = [claim[2] for version in lake.lineage() if (claim := lake.claim(version)) is not None]
    if len(runs) != len(set(runs)):
        found.append("a run is published twice")
    return found


def _dead_end(protocol: Protocol, lake: Lake) -> list[str]:
    """When everybody has ended, the next run must publish, once a version that is stuck is given up."""
    after, end = _alone(protocol, lake, Actor("later", "run"))
    if end == "stuck" and protocol.holds:
        after, end = _alone(protocol, lake, Actor("somebody", "abandoner"))
        after, end = _alone(protocol, after, Actor("later", "run"))
    if end != "published":
        return [f"nobody can write any more: the next run ends as {end}"]
    return _faults(after)
