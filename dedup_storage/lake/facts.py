"""Facts that a run keeps with a table's part of a version, whatever the format."""

from __future__ import annotations

from collections.abc import Collection, Mapping

__all__ = ["BUCKETS", "CHANGED", "COLUMNS", "ERASING", "ROWS_KEPT", "Facts", "concerns"]

# Name of a fact -> what it says.
Facts = Mapping[str, str]

# The run wrote rows anew and changed none, as compaction does; events that no request refers to may have gone.
ROWS_KEPT = "rows-kept"
# From here on the table lies in so many user buckets: numbers of buckets of before are of another count.
BUCKETS = "buckets"
# What changed, as JSON, where files do not tell (a promoted group's rows are in another table).
CHANGED = "changed"
# The columns, comma-separated, that alone were given other values; which rows there are, and all else, stayed.
COLUMNS = "changed-columns"
# The job of a version that users were erased by.
ERASING = "forget-user"


def concerns(said: Facts, columns: Collection[str] | None) -> bool:
    """Whether a change may be one of some columns.

    Args:
        said: Facts of the change.
        columns: Their names in lower case; ``None`` for any.
    """
    told = said.get(COLUMNS)
    return columns is None or told is None or any(name.lower() in columns for name in told.split(","))
