"""What can be wrong with a published version by the doing of others: said table by table, by kind."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KINDS", "Damage"]

# Kind of damage -> the rule that a whole version keeps, in words.
KINDS = {
    "tables": "every table that the version's claim names",
    "lineage": "each table to hold what the version's own run brought there",
    "rows": "as many rows in each table as the version's claim says",
    "counts": "as many rows in each table's files as its snapshot says",
    "files": "every file of the version, with its length",
    "footers": "as many rows in each file's footer as the table says",
    "main": "no commit of another tool after the newest version",
}


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong with a version.

    Attributes:
        kind: One of ``KINDS``.
        table: Where.
        expected, found: In words.
    """

    kind: str
    table: str
    expected: str
    found: str

    @property
    def text(self) -> str:
        """In a sentence's part."""
        return f"{self.table}: expected {self.expected}, found {self.found}"
