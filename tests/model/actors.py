"""What actors do, one atomic step at a time: runs publish, tools expire and compact, somebody gives up."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.model.lake import ANCHOR, OTHER, Lake, Snapshot
from tests.model.protocol import TABLES, Actor, Protocol, Stuck

__all__ = ["Actors", "Successor"]

Successor = tuple[Lake, Actor]


@dataclass(frozen=True)
class Actors:
    """The steps of every kind of actor under one protocol."""

    protocol: Protocol

    def successors(self, lake: Lake, actor: Actor) -> list[Successor]:
        """What an actor may do next; nothing when it has ended."""
        if actor.step == "ended":
            return []
        step = getattr(self, f"_{actor.kind}_{actor.step}")
        try:
            found: list[Successor] = step(lake, actor)
        except Stuck:
            return [(lake, actor.end("stuck"))]
        return found

    # -- a run ----------------------------------------------------------------------------------------------------

    def _run_begin(self, lake: Lake, actor: Actor) -> list[Successor]:
        """Complete what others decided, before anything else."""
        return self._settled(lake, actor, "begin", lambda: [(lake, actor.at("stage", 0))])

    def _settled(self, lake: Lake, actor: Actor, again: str, then) -> list[Successor]:  # type: ignore[no-untyped-def]
        half = next((found for found in sorted(lake.abandoned) if not found[3]), None)
        if half is not None:
            return [(lake, actor.at("undo", half[0], 0, again, *actor.memory))]
        if lake.pending is not None:
            return [(lake, actor.at("settle", lake.pending, 0, again, *actor.memory))]
        found: list[Successor] = then()
        return found

    def _run_settle(self, lake: Lake, actor: Actor) -> list[Successor]:
        version, done, again, *rest = actor.memory
        at_once = self._at_once(lake, int(version), actor.at(str(again), *rest))  # type: ignore[call-overload]
        brought = self.protocol.complete_step(lake, int(version), int(done))  # type: ignore[call-overload]
        if brought is None:
            return [(lake, actor.at(str(again), *rest))]
        lake, done = brought
        if done == len(TABLES):
            return [*at_once, (lake, actor.at(str(again), *rest))]
        return [*at_once, (lake, actor.at("settle", version, done, again, *rest))]

    def _at_once(self, lake: Lake, version: int, after: Actor) -> list[Successor]:
        """Where the catalog may, all tables by one commit."""
        made = self.protocol.complete_at_once(lake, version) if self.protocol.one_commit else None
        return [] if made is None else [(made, after)]

    def _run_undo(self, lake: Lake, actor: Actor) -> list[Successor]:
        version, done, again, *rest = actor.memory
        lake, done = self.protocol.undo_step(lake, int(version), int(done))  # type: ignore[call-overload]
        if done > len(TABLES):
            return [(lake, actor.at(str(again), *rest))]
        return [(lake, actor.at("undo", version, done, again, *rest))]

    def _run_stage(self, lake: Lake, actor: Actor) -> list[Successor]:
        """Stage in one table; a snapshot that no name keeps yet."""
        (done,) = actor.memory
        name = TABLES[int(done)]  # type: ignore[call-overload]
        table = lake.table(name)
        rows = frozenset({actor.name}) | (frozenset() if actor.mode == "replace" else table.rows(table.main))
        operation = "append" if actor.mode == "append" else "overwrite"
        table, number = table.added(Snapshot(table.main, operation, rows, self._attempt(actor)))
        lake = lake.put(name, table)
        if self.protocol.holds:
            return [(lake, actor.at("hold", done, number))]
        return [(lake, self._staged(actor, int(done)))]  # type: ignore[call-overload]

    def _run_hold(self, lake: Lake, actor: Actor) -> list[Successor]:
        done, number = actor.memory
        name = TABLES[int(done)]  # type: ignore[call-overload]
        table = lake.table(name)
        if number not in table.alive:
            return [(lake, actor.end("gone"))]
        lake = lake.put(name, table.tagged(f"hold-{self._attempt(actor)}", int(number)))  # type: ignore[call-overload]
        return [(lake, self._staged(actor, int(done)))]  # type: ignore[call-overload]

    def _staged(self, actor: Actor, done: int) -> Actor:
        return actor.at("stage", done + 1) if done + 1 < len(TABLES) else actor.at("look")

    def _run_look(self, lake: Lake, actor: Actor) -> list[Successor]:
        """Complete others' versions, look whether this run is published, fit what it staged to main."""

        def look() -> list[Successor]:
            if lake.published(actor.name) is not None:
                return [(lake, actor.end("published"))]
            for name in TABLES:
                table, parent = lake.table(name), lake.current
                expected = table.ref(f"v{parent}") if parent else None
                for number in table.line(table.main):
                    if number == expected or table.snapshots[number].operation == "abandoned":
                        break
                    if table.snapshots[number].operation != "replace":
                        # A version decided after the look explains it; else a commit of another tool.
                        return [(lake, actor.at("look") if lake.pending is not None else actor.end("foreign"))]
            return [(lake, actor.at("fit", lake.following, 0))]

        return self._settled(lake, actor, "look", look)

    def _run_fit(self, lake: Lake, actor: Actor) -> list[Successor]:
        version, done = actor.memory
        if done == len(TABLES):
            return [(lake, actor.at("claim", version))]
        name = TABLES[int(done)]  # type: ignore[call-overload]
        table = lake.table(name)
        staged = self.protocol.staged(table, self._attempt(actor))
        later = actor.at("fit", version, int(done) + 1)  # type: ignore[call-overload]
        if staged is None:
            # An earlier release looked for the anchor alone.
            lost = self.protocol.holds or name == ANCHOR
            return [(lake, actor.end("gone") if lost else later)]
        if actor.mode == "replace" and table.snapshots[staged].parent != table.main:
            table, anew = table.added(Snapshot(table.main, "overwrite", table.snapshots[staged].rows,
                                               self._attempt(actor)))  # fmt: skip
            if self.protocol.holds:
                table = table.tagged(f"hold-{self._attempt(actor)}", anew)
            return [(lake.put(name, table), later)]
        return [(lake, later)]

    def _run_claim(self, lake: Lake, actor: Actor) -> list[Successor]:
        version = int(actor.memory[0])  # type: ignore[call-overload]
        decided = self.protocol.claim(lake, version, actor, self._attempt(actor))
        if decided is None:
            return [(lake, actor.at("look"))]
        return [(decided, actor.at("own", version, 0))]

    def _run_own(self, lake: Lake, actor: Actor) -> list[Successor]:
        """Complete the version that this run decided; what can never be completed is given up."""
        version, done = (int(value) for value in actor.memory)  # type: ignore[call-overload]
        claim, table = lake.claim(version), lake.table(TABLES[done])
        if not self.protocol.compares and claim is not None and table.ref(f"v{version}") is None:
            staged = table.ref(f"hold-{claim[1]}")
            if staged is not None:
                return [(lake, actor.at("unseen", version, done, table.main, staged))]
        at_once = self._at_once(lake, version, actor.end("published"))
        try:
            brought = self.protocol.complete_step(lake, version, done)
        except Stuck:
            if not self.protocol.holds:
                raise
            return [(lake, actor.at("give_up", version))]
        if brought is None:
            return [(lake, actor.end("given up"))]
        lake, done = brought
        return [*at_once, (lake, actor.end("published") if done == len(TABLES) else actor.at("own", version, done))]

    def _run_unseen(self, lake: Lake, actor: Actor) -> list[Successor]:
        """Commit what was looked at before, where main and the version's tag are as they were."""
        version, done, main, staged = actor.memory
        name, tag = TABLES[int(done)], f"v{version}"  # type: ignore[call-overload]
        table = lake.table(name)
        picked = table.picked(int(staged)) if table.main == main and table.ref(tag) is None else None  # type: ignore[call-overload]
        if picked is None:
            return [(lake, actor.at("own", version, done))]
        brought, tip = picked
        lake = lake.put(name, brought.tagged(tag, tip).untagged(f"hold-{self._attempt(actor)}"))
        after = int(done) + 1  # type: ignore[call-overload]
        return [(lake, actor.end("published") if after == len(TABLES) else actor.at("own", version, after))]

    def _run_give_up(self, lake: Lake, actor: Actor) -> list[Successor]:
        version = int(actor.memory[0])  # type: ignore[call-overload]
        given_up = self.protocol.unclaim(lake, version)
        if given_up is None:
            return [(lake, actor.end("given up"))]
        return [(given_up, actor.at("undo", version, 0, "quit"))]

    def _run_quit(self, lake: Lake, actor: Actor) -> list[Successor]:
        return [(lake, actor.end("given up"))]

    @staticmethod
    def _attempt(actor: Actor) -> str:
        return f"a-{actor.name}"

    # -- others ---------------------------------------------------------------------------------------------------

    def _expiry_begin(self, lake: Lake, actor: Actor) -> list[Successor]:
        """Another tool expires what is unnamed in one table, whenever it likes."""
        return [(lake.put(name, lake.table(name).expired()), actor.end("done")) for name in (OTHER, ANCHOR)]

    def _compaction_begin(self, lake: Lake, actor: Actor) -> list[Successor]:
        """Another tool joins the files of one table."""
        there = [name for name in (OTHER, ANCHOR) if lake.table(name).main is not None]
        return [(lake.put(name, lake.table(name).compacted()), actor.end("done")) for name in there]

    def _abandoner_begin(self, lake: Lake, actor: Actor) -> list[Successor]:
        """Somebody gives the pending version up, sooner or later."""
        if lake.pending is None:
            return []
        given_up = self.protocol.unclaim(lake, lake.pending)
        assert given_up is not None
        return [(given_up, replace(actor, kind="run").at("undo", lake.pending, 0, "quit"))]
