"""Records of named samples and their stored users, read without Spark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from dedup_storage.sampling.stored import SAMPLE_PREFIX

__all__ = ["FlaggedRows", "StoredUsers", "sample_records"]


def sample_records(properties: Mapping[str, str]) -> dict[str, str]:
    """Named sample -> its record, from a table's properties."""
    return {p.removeprefix(SAMPLE_PREFIX): text for p, text in properties.items() if p.startswith(SAMPLE_PREFIX)}


class FlaggedRows(Protocol):
    """A table whose rows can be chosen by a flag, as each format gives it."""

    def flagged(self, snapshot_id: int, where: str, columns: Sequence[str]) -> pa.Table:
        """Columns of a snapshot's rows in which the flag ``where`` is set."""


@dataclass(frozen=True)
class StoredUsers:
    """Tables of samples' users.

    Attributes:
        tables: By name.
        tags: (table, tag) -> snapshot.
    """

    tables: Mapping[str, FlaggedRows] = field(default_factory=dict)
    tags: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def read(self, table: str, tag: str, where: str, columns: Sequence[str]) -> pa.Table | None:
        """Columns of the rows in which a flag is set, at the snapshot that a tag names; ``None`` when it is gone."""
        snapshot_id, found = self.tags.get((table, tag)), self.tables.get(table)
        return None if snapshot_id is None or found is None else found.flagged(snapshot_id, where, columns)
