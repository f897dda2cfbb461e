"""Where a Delta table lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as pads

from dedup_storage.lake.delta.layout import buckets_by, generated_by
from dedup_storage.lake.delta.open import load_delta
from dedup_storage.lake.delta.opened import OpenedTables

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = ["DeltaRef"]


@dataclass(frozen=True)
class DeltaRef:
    """Where a Delta table lies.

    Attributes:
        name: Table name.
        uri: Its folder.
        properties: Its table properties.
        options: Of ``deltalake``.
        store: Catalog properties, by which everything else opens the table's files.
        opened: What opens its lake's tables, each version once; ``None`` opens it anew every time.
    """

    name: str
    uri: str
    properties: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    store: Mapping[str, str] = field(default_factory=dict, repr=False)
    opened: OpenedTables | None = field(default=None, repr=False, compare=False)

    def place(self, path: str) -> str:
        """Where a file of the table lies; the log of a shallow clone names files of another table by their address."""
        path = unquote(path)
        if path.startswith("file:"):
            return "/" + path.removeprefix("file:").lstrip("/")
        return path if "://" in path or path.startswith("/") else f"{self.uri}/{path}"

    def load(self, version: int | None = None) -> DeltaTable:
        """The table at a Delta version, not to be changed; ``None`` takes the newest."""
        if self.opened is None:
            return load_delta(self.uri, self.options, version)
        return self.opened.load(self.uri, version)

    def buckets(self, column: str, version: int | None = None) -> int | None:
        """How many user buckets a Delta version of the table has; ``None`` where its column makes none.

        Args:
            column: The generated column.
            version: ``None`` takes the newest.
        """
        return buckets_by(generated_by(self.load(version).schema().fields, column))

    def flagged(self, snapshot_id: int, where: str, columns: Sequence[str]) -> pa.Table:
        """See ``FlaggedRows``."""
        return self.load(snapshot_id).to_pyarrow_dataset().to_table(columns=list(columns), filter=pads.field(where))
