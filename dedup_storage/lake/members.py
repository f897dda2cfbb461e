"""What the claim of a version says of its tables: the data that each must get, by name, before anything is decided."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Member", "Members"]


@dataclass(frozen=True)
class Member:
    """What a run staged in one table of a version.

    Attributes:
        rows, files: Of the data files that it adds.
        total: Rows of the table afterwards, hidden ones left out; ``None`` where only the publication tells.
        snapshot: The staged snapshot, where the format has one.
        replaced: Half-open ranges of event dates (ISO) whose rows it replaces; ``None`` for one that only adds, and
            for one that names the files that go.
        buckets: Only these user buckets of the ranges; ``None`` for all.
    """

    rows: int = 0
    files: int = 0
    total: int | None = None
    snapshot: int | None = None
    replaced: tuple[tuple[str, str], ...] | None = None
    buckets: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Members:
    """The tables of a version as its claim names them.

    Attributes:
        parent: The version that it is made from: the newest one when it was decided; 0 for the first.
        tables: Every table that the version has.
        staged: Tables that its run changes -> what it staged there.
    """

    parent: int
    tables: tuple[str, ...]
    staged: Mapping[str, Member] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line, short: it is kept with every version."""
        staged = {
            name: {
                key: value
                for key, value in (
                    ("rows", member.rows),
                    ("files", member.files),
                    ("total", member.total),
                    ("snapshot", member.snapshot),
                    ("replaced", member.replaced),
                    ("buckets", member.buckets),
                )
                if value is not None
            }
            for name, member in self.staged.items()
        }
        body = {"parent": self.parent, "tables": list(self.tables), "staged": staged}
        return json.dumps(body, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Members:
        """What ``to_json`` wrote."""
        body = json.loads(text)
        staged = {
            name: Member(
                rows=int(found.get("rows", 0)),
                files=int(found.get("files", 0)),
                total=found.get("total"),
                snapshot=found.get("snapshot"),
                replaced=_pairs(found.get("replaced")),
                buckets=tuple(found["buckets"]) if "buckets" in found else None,
            )
            for name, found in body["staged"].items()
        }
        return Members(int(body["parent"]), tuple(body["tables"]), staged)


def _pairs(listed: list[list[str]] | None) -> tuple[tuple[str, str], ...] | None:
    return None if listed is None else tuple((low, high) for low, high in listed)
