"""Names that a column cannot have, since a format, an engine, the toolkit or the log itself uses them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from dedup_storage.errors import SchemaError

__all__ = ["refuse_reserved", "refuse_twice"]

_RESERVED = {
    **dict.fromkeys(
        (
            "_file", "_pos", "_deleted", "_spec_id", "_partition", "_row_id", "_last_updated_sequence_number",
            "_change_ordinal", "_commit_snapshot_id",
        ),
        "Iceberg",
    ),
    **dict.fromkeys(("_change_type", "_commit_version", "_commit_timestamp"), "Delta"),
    "_metadata": "Spark",
}  # fmt: skip
# Beginnings and names of columns that a write makes for itself.
_OWN_PREFIXES = ("_dedup_", "_gate_", "_backfill_")
_OWN = ("_hash", "_hidden", "_rank", "_varies", "_wide")


def refuse_reserved(columns: Iterable[str]) -> None:
    """Refuse columns whose names are taken.

    Raises:
        SchemaError: names the first one, and whose name it is.
    """
    for name in columns:
        low = name.lower()
        owner = _RESERVED.get(low)
        if owner is None and (low in _OWN or low.startswith(_OWN_PREFIXES)):
            owner = "dedup_storage"
        if owner is not None:
            raise SchemaError(
                f"the column {name} has a name that {owner} uses itself",
                expected="another name",
                fix=f"Rename the column {name} in the log.",
            )


def refuse_twice(columns: Iterable[str]) -> None:
    """Refuse columns that differ in case alone, which tables and engines take for one.

    Raises:
        SchemaError: names both.
    """
    known: dict[str, str] = {}
    for name in columns:
        other = known.setdefault(name.lower(), name)
        if other != name:
            raise SchemaError(f"the columns {other} and {name} differ in case alone", fix="Rename one of them.")
