"""What can be wrong with a published version by the doing of others: said table by table, by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["KINDS", "Damage", "footer_damages"]

# Footers that are opened at a time: an object store answers each request in some 20 ms.
_THREADS = 16

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


def footer_damages(
    table: str, rows: Mapping[str, int], opened: Callable[[str], AbstractContextManager[Any]]
) -> list[Damage]:
    """Files of a table whose footers do not have the rows that the table says; one that is gone is told elsewhere.

    Args:
        table: The table.
        rows: Place of each file -> its rows.
        opened: Opens a file by its place.
    """

    def wrong(place: str) -> str | None:
        try:
            with opened(place) as stream:
                found = pq.read_metadata(stream).num_rows
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException) as error:
            return f"a footer that cannot be read: {str(error).splitlines()[0][:120]}"
        return None if found == rows[place] else f"{found:,} rows instead of {rows[place]:,}"

    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(rows, pool.map(wrong, rows), strict=True))
    return [
        Damage("footers", table, f"the rows of the file {p}", text) for p, text in found.items() if text is not None
    ]
