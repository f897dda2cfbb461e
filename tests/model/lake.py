"""A lake of two tables, as far as publication goes: snapshots, references, what the catalog commits at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

__all__ = ["ANCHOR", "OTHER", "Lake", "Snapshot", "Table"]

# The table that decides versions, and one other member.
ANCHOR, OTHER = "anchor", "other"


@dataclass(frozen=True)
class Snapshot:
    """One snapshot: what it was made on and how, the runs whose rows it has, the attempt that staged it."""

    parent: int | None
    operation: str
    rows: frozenset[str]
    attempt: str = ""
    source: int | None = None


@dataclass(frozen=True)
class Table:
    """One table: snapshots by number, those that are still there, main, names."""

    snapshots: tuple[Snapshot, ...] = ()
    alive: frozenset[int] = frozenset()
    main: int | None = None
    refs: frozenset[tuple[str, int]] = frozenset()

    def ref(self, name: str) -> int | None:
        return next((number for found, number in self.refs if found == name), None)

    def tagged(self, name: str, number: int) -> Table:
        return replace(self, refs=frozenset((n, s) for n, s in self.refs if n != name) | {(name, number)})

    def untagged(self, *names: str) -> Table:
        return replace(self, refs=frozenset((n, s) for n, s in self.refs if n not in names))

    def added(self, snapshot: Snapshot) -> tuple[Table, int]:
        number = len(self.snapshots)
        return replace(self, snapshots=(*self.snapshots, snapshot), alive=self.alive | {number}), number

    def rows(self, number: int | None) -> frozenset[str]:
        return self.snapshots[number].rows if number is not None else frozenset()

    def line(self, number: int | None) -> list[int]:
        """A snapshot and those it was made from, newest first, as far as they are there."""
        found = []
        while number is not None and number in self.alive:
            found.append(number)
            number = self.snapshots[number].parent
        return found

    def holder(self, staged: int) -> int | None:
        """Main's snapshot that holds a staged one."""
        for number in self.line(self.main):
            if number == staged or self.snapshots[number].source == staged:
                return number
        return None

    def picked(self, staged: int) -> tuple[Table, int] | None:
        """Iceberg's cherry-pick: ``None`` where it refuses."""
        if staged not in self.alive:
            return None
        snapshot = self.snapshots[staged]
        if snapshot.parent == self.main:
            return replace(self, main=staged), staged
        if snapshot.operation != "append":
            return None
        new = snapshot.rows - self.rows(snapshot.parent)
        made = Snapshot(self.main, "append", self.rows(self.main) | new, snapshot.attempt, staged)
        table, number = self.added(made)
        return replace(table, main=number), number

    def compacted(self) -> Table:
        """Another tool joins main's files."""
        table, number = self.added(Snapshot(self.main, "replace", self.rows(self.main)))
        return replace(table, main=number)

    def expired(self) -> Table:
        """Another tool removes every snapshot that no name and not main keeps."""
        kept = {number for _, number in self.refs} | ({self.main} if self.main is not None else set())
        return replace(self, alive=frozenset(kept & self.alive))


@dataclass(frozen=True)
class Lake:
    """Both tables, and what the anchor's properties and snapshots say of versions.

    Attributes:
        claims: (version, attempt, run, mode, parent, members): members are (table, staged snapshot).
        abandoned: (version, attempt, parent, whole).
    """

    anchor: Table = field(default_factory=Table)
    other: Table = field(default_factory=Table)
    claims: frozenset[tuple[int, str, str, str, int, tuple[tuple[str, int], ...]]] = frozenset()
    abandoned: frozenset[tuple[int, str, int, bool]] = frozenset()

    def table(self, name: str) -> Table:
        return self.anchor if name == ANCHOR else self.other

    def put(self, name: str, table: Table) -> Lake:
        return replace(self, anchor=table) if name == ANCHOR else replace(self, other=table)

    @property
    def versions(self) -> list[int]:
        return sorted(int(name[1:]) for name, _ in self.anchor.refs if name.startswith("v"))

    @property
    def current(self) -> int:
        return self.versions[-1] if self.versions else 0

    @property
    def following(self) -> int:
        return max(self.current, *(version for version, *_ in self.abandoned), 0) + 1

    def claim(self, version: int) -> tuple[int, str, str, str, int, tuple[tuple[str, int], ...]] | None:
        return next((claim for claim in self.claims if claim[0] == version), None)

    @property
    def pending(self) -> int | None:
        return self.following if self.anchor.ref(f"claim-{self.following}") is not None else None

    def lineage(self) -> list[int]:
        version, found = self.current, []
        while version:
            found.append(version)
            claim = self.claim(version)
            version = claim[4] if claim is not None else 0
        return found

    def published(self, run: str) -> int | None:
        """The version that a run published."""
        return next((v for v in self.lineage() if (claim := self.claim(v)) is not None and claim[2] == run), None)
