"""Facts that a run keeps with a table's part of a version, whatever the format."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["CHANGED", "ERASING", "ROWS_KEPT", "Facts"]

# Name of a fact -> what it says.
Facts = Mapping[str, str]

# The run wrote rows anew and changed none, as compaction does.
ROWS_KEPT = "rows-kept"
# What changed, as JSON, where files do not tell (a promoted group's rows are in another table).
CHANGED = "changed"
# The job of a version that users were erased by.
ERASING = "forget-user"
