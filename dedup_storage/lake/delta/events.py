"""What the events of a Delta dataset say, folded. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Versions", "fold"]


def _followed(moves: Mapping[str, Mapping[str, int]], table: str, snapshot: int) -> int:
    return moves.get(table, {}).get(str(snapshot), snapshot)


@dataclass
class Versions:
    """What the events say.

    Attributes:
        claims: Version -> facts of the run that decided it.
        published: Version -> body: ``snapshots`` (table -> Delta version), ``rows``, ``definitions``.
        pins: Version -> labels.
        tags: (table, name) -> Delta version.
        samples: Named sample -> its record.
        sample_numbers: Named sample -> number of its record.
        moves: What each erasure made anew: table -> old -> new.
        abandoned: Versions that were decided and given up -> facts of their runs; no number is used again.
        undone: Those of them of which nothing is left -> table -> the Delta version that undid them there.
        erasures: Run of an erasure -> what is kept of it.
        erasure_numbers: Run of an erasure -> number of what is kept.
        dropped: Tables of the dataset, when it is being dropped.
    """

    claims: dict[int, dict[str, str]] = field(default_factory=dict)
    published: dict[int, dict[str, Any]] = field(default_factory=dict)
    pins: dict[int, set[str]] = field(default_factory=dict)
    tags: dict[tuple[str, str], int] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)
    sample_numbers: dict[str, int] = field(default_factory=dict)
    moves: list[Mapping[str, Mapping[str, int]]] = field(default_factory=list)
    abandoned: dict[int, dict[str, str]] = field(default_factory=dict)
    undone: dict[int, Mapping[str, int]] = field(default_factory=dict)
    erasures: dict[str, str] = field(default_factory=dict)
    erasure_numbers: dict[str, int] = field(default_factory=dict)
    dropped: tuple[str, ...] | None = None

    def move(self, event: Mapping[str, Any]) -> None:
        """Let the Delta versions that were made anew stand for those they were made of."""
        moves, rows = event["snapshots"], event["rows"]
        self.moves.append(moves)
        for body in self.published.values():
            snapshots = body["snapshots"]
            for table, snapshot in list(snapshots.items()):
                snapshots[table] = _followed(moves, table, snapshot)
                counted = rows.get(table, {}).get(str(snapshots[table]))
                if counted is not None:
                    body["rows"][table] = counted
        # By name: a table of users may have been dropped and begun again, with the same Delta versions.
        for label, snapshot in event["tags"].items():
            table, _, name = label.partition("/")
            if (table, name) in self.tags:
                self.tags[table, name] = snapshot

    @property
    def restored(self) -> set[int]:
        """Versions that a rollback brings back which is decided and not complete: it needs them."""
        last = max(self.published, default=0)
        pending = (facts for version, facts in self.claims.items() if version > last)
        return {int(facts["parent"]) for facts in pending if facts.get("kind") == "rollback"}

    def today(self, table: str, snapshot: int) -> int:
        """The Delta version that stands for one that something remembers."""
        for moves in self.moves:
            snapshot = _followed(moves, table, snapshot)
        return snapshot


def fold(rows: Iterable[Mapping[str, Any]]) -> Versions:
    """What events say, in whatever order they come."""
    found = Versions()
    moves: dict[int, dict[str, Any]] = {}
    for row in rows:
        number = row["version"]
        if row["event"] == "claim":
            found.claims[number] = {**json.loads(row["body"]), "created-ms": str(row["at_ms"])}
        elif row["event"] == "published":
            found.published[number] = json.loads(row["body"])
        elif row["event"] == "abandoned":
            found.abandoned[number] = json.loads(row["body"])
        elif row["event"] == "undone":
            found.undone[number] = json.loads(row["body"])["snapshots"]
        elif row["event"] == "moved":
            moves[number] = json.loads(row["body"])
        elif row["event"] == "pin":
            found.pins.setdefault(number, set()).add(row["label"])
        elif row["event"] == "tag":
            table_name, _, tag = row["label"].partition("/")
            found.tags[table_name, tag] = max(number, found.tags.get((table_name, tag), number))
        elif row["event"] == "dropped":
            found.dropped = tuple(json.loads(row["body"])["tables"])
        elif row["event"] == "erasure" and number > found.erasure_numbers.get(row["label"], 0):
            found.erasure_numbers[row["label"]] = number
            found.erasures[row["label"]] = json.loads(row["body"])["record"]
        elif row["event"] == "sample" and number > found.sample_numbers.get(row["label"], 0):
            found.sample_numbers[row["label"]] = number
            found.samples[row["label"]] = json.loads(row["body"])["record"]
    for number in sorted(moves):
        found.move(moves[number])
    for number in found.abandoned:
        # What it decided holds no longer; its facts say what is to be undone.
        found.abandoned[number] = {**found.claims.pop(number, {}), **found.abandoned[number]}
    return found
