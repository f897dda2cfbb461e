"""What can be wrong with a published version by the doing of others: said table by table, by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dedup_storage.lake.credentials import FileAccess

__all__ = ["DEEP_KINDS", "KINDS", "Damage", "StoredFiles"]

# Kind of damage -> the rule that a whole version keeps, in words.
KINDS = {
    "tables": "every table that the version's claim names",
    "lineage": "each table to hold what the version's own run brought there",
    "rows": "as many rows in each table as the version's claim says",
    "counts": "as many rows in each table's files as its snapshot says",
    "files": "every file of the version, with its length",
    "main": "no commit of another tool after the newest version",
    "footers": "as many rows in each file's footer as the table says",
    "pages": "each page of each file as it was written, by its checksum",
}
# Kinds that only reading the files tells.
DEEP_KINDS = ("footers", "pages")


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


@dataclass(frozen=True)
class StoredFiles:
    """Data files of one table of a version.

    Attributes:
        table: The table.
        rows: Place of each file -> rows in it, those that deletion vectors hide included.
        files: Opens them by their places.
    """

    table: str
    rows: Mapping[str, int]
    files: FileAccess
