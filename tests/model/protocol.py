"""The publication protocol, step by step: what a run does between two looks of the scheduler is one commit or one look.

Each function takes the lake and gives it as it is after one step, with what the actor does next. ``holds`` and
``members`` off is the protocol of an earlier release (commit c49b8a4): no hold on staged snapshots, claims that name
no members, a member that is gone taken for one that was not touched, tags in a commit of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.model.lake import ANCHOR, OTHER, Lake, Snapshot, Table

__all__ = ["Actor", "Protocol", "Stuck"]

TABLES = (OTHER, ANCHOR)


class Stuck(Exception):
    """The decided version can never be completed."""


@dataclass(frozen=True)
class Actor:
    """One actor: its name, its kind, the step it is at, what it remembers."""

    name: str
    kind: str
    step: str = "begin"
    mode: str = "append"
    memory: tuple[object, ...] = ()
    ended: str = ""

    def at(self, step: str, *memory: object) -> Actor:
        return replace(self, step=step, memory=memory)

    def end(self, how: str) -> Actor:
        return replace(self, step="ended", memory=(), ended=how)


@dataclass(frozen=True)
class Protocol:
    """Which protocol the actors keep.

    Attributes:
        holds: Staged snapshots are held.
        one_commit: The catalog may commit all tables of a decided version at once. Any actor may find that it does, or
            that it refuses: then it goes on table after table. A server that stops halfway does what a run does that
            is killed there.
        compares: A commit that takes a hold away rests on it. Off is a REST catalog before commits said so: it compares
            only the references that are set, and what lies between an actor's look and its commit goes unseen.
    """

    holds: bool = True
    one_commit: bool = False
    compares: bool = True

    # -- completing ---------------------------------------------------------------------------------------------------

    def complete_step(self, lake: Lake, version: int, done: int) -> tuple[Lake, int] | None:
        """Bring the member number ``done`` in; gives the next number, ``None`` where the version was given up."""
        name = TABLES[done]
        claim = lake.claim(version)
        assert claim is not None
        _, attempt, _, mode, parent, _ = claim
        table, tag, hold = lake.table(name), f"v{version}", f"hold-{attempt}"
        before = table.ref(f"v{parent}") if parent else None
        if not self.holds:
            return self._complete_former(lake, name, claim, before), done + 1
        if table.ref(tag) is not None:
            return lake, done + 1
        staged = table.ref(hold)
        if staged is None:
            if any(given_up == version for given_up, *_ in lake.abandoned):
                return None
            raise Stuck
        result = table.picked(staged)
        if result is None:
            if mode != "replace" or not _only_compacted(table, before):
                raise Stuck
            snapshot = table.snapshots[staged]
            table, anew = table.added(Snapshot(table.main, "overwrite", snapshot.rows, attempt))
            result = table.picked(anew)
            assert result is not None
        table, tip = result
        return lake.put(name, table.tagged(tag, tip).untagged(hold)), done + 1

    def complete_at_once(self, lake: Lake, version: int) -> Lake | None:
        """Bring every member in by one commit that rests on all of them; ``None`` where it cannot be made."""
        for done in range(len(TABLES)):
            name, claim = TABLES[done], lake.claim(version)
            assert claim is not None
            table, hold = lake.table(name), f"hold-{claim[1]}"
            if table.ref(f"v{version}") is not None:
                continue
            staged = table.ref(hold)
            picked = None if staged is None else table.picked(staged)
            if picked is None:
                return None
            table, tip = picked
            lake = lake.put(name, table.tagged(f"v{version}", tip).untagged(hold))
        return lake

    def _complete_former(self, lake: Lake, name: str, claim: tuple, before: int | None) -> Lake:  # type: ignore[type-arg]
        version, attempt = claim[0], claim[1]
        table = lake.table(name)
        staged = max((n for n in table.alive if table.snapshots[n].attempt == attempt and
                      table.snapshots[n].source is None), default=None)  # fmt: skip
        tip = before
        if staged is not None:
            tip = table.holder(staged)
            if tip is None:
                result = table.picked(staged)
                if result is None:
                    raise Stuck
                table, tip = result
        return lake.put(name, table if tip is None else table.tagged(f"v{version}", tip))

    # -- deciding -----------------------------------------------------------------------------------------------------

    def claim(self, lake: Lake, version: int, actor: Actor, attempt: str) -> Lake | None:
        """Decide a version; ``None`` where another writer was faster or the view is old."""
        held = {name: self.staged(lake.table(name), attempt) for name in TABLES}
        given_up = any(number == version for number, *_ in lake.abandoned)
        if lake.anchor.ref(f"claim-{version}") is not None or lake.anchor.ref(f"v{version}") is not None or given_up:
            return None
        if held[ANCHOR] is None:
            return None
        members = tuple((name, number) for name, number in held.items() if number is not None)
        claim = (version, attempt, actor.name, actor.mode, lake.current, members)
        anchor = lake.anchor.tagged(f"claim-{version}", held[ANCHOR])
        kept = frozenset(found for found in lake.claims if found[0] != version)
        return replace(lake.put(ANCHOR, anchor), claims=kept | {claim})

    def staged(self, table: Table, attempt: str) -> int | None:
        """What an attempt has staged in a table."""
        if self.holds:
            return table.ref(f"hold-{attempt}")
        found = (n for n in table.alive if table.snapshots[n].attempt == attempt and table.snapshots[n].source is None)
        return max(found, default=None)

    # -- giving up ----------------------------------------------------------------------------------------------------

    def unclaim(self, lake: Lake, version: int) -> Lake | None:
        """Take the claim away; ``None`` where the version is complete."""
        claim = lake.claim(version)
        if claim is None or lake.anchor.ref(f"v{version}") is not None or lake.anchor.ref(f"claim-{version}") is None:
            return None
        anchor = lake.anchor.untagged(f"claim-{version}", f"hold-{claim[1]}")
        return replace(lake.put(ANCHOR, anchor), abandoned=lake.abandoned | {(version, claim[1], claim[4], False)})

    def undo_step(self, lake: Lake, version: int, done: int) -> tuple[Lake, int]:
        """Undo the table number ``done``; after the last, nothing is left."""
        _, attempt, parent, _ = next(found for found in lake.abandoned if found[0] == version)
        if done == len(TABLES):
            rest = frozenset(found for found in lake.abandoned if found[0] != version)
            return replace(lake, abandoned=rest | {(version, attempt, parent, True)}), done + 1
        name = TABLES[done]
        table = lake.table(name)
        brought, before = table.ref(f"v{version}"), table.ref(f"v{parent}") if parent else None
        if brought is not None and brought != before and brought in table.line(table.main):
            if before is None:
                table, empty = table.added(Snapshot(table.main, "abandoned", frozenset()))
                table = replace(table, main=empty)
            else:
                table = replace(table, main=before)
        return lake.put(name, table.untagged(f"v{version}", f"hold-{attempt}")), done + 1


def _only_compacted(table: Table, before: int | None) -> bool:
    for number in table.line(table.main):
        if number == before:
            return True
        if table.snapshots[number].operation not in ("replace", "abandoned"):
            return False
    return before is None


Step = Callable[[Lake, Actor], list[tuple[Lake, Actor]]]
