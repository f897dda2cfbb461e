"""Names that a column cannot have, since a format, an engine, the toolkit or the log itself uses them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from dedup_storage.errors import SchemaError

__all__ = ["refuse_repeated", "refuse_reserved", "refuse_twice"]

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
    """Refuse columns of one name, or that differ in case alone, which tables and engines take for one.

    Raises:
        SchemaError: names both.
    """
    known: dict[str, str] = {}
    for name in columns:
        other = known.get(name.lower())
        if other == name:
            raise SchemaError(f"the column {name} occurs twice in the log", fix="Rename or drop one of them.")
        if other is not None:
            raise SchemaError(f"the columns {other} and {name} differ in case alone", fix="Rename one of them.")
        known[name.lower()] = name


def refuse_repeated(fields: Iterable[pa.Field], place: str, above: str = "") -> None:
    """Refuse a file with two columns of one name, or two fields of one inside a struct: nothing tells which is meant.

    Args:
        fields: Its columns, or the fields of a struct.
        place: The file, or the log that its files are of, in words.
        above: The struct's path, with a point.

    Raises:
        SchemaError: names the column and the place.
    """
    known = set[str]()
    for field in fields:
        # Columns that differ in case alone are told by ``refuse_twice``, where all files' columns are known.
        name = field.name.lower() if above else field.name
        if name in known:
            raise SchemaError(
                f"the column {above}{field.name} occurs twice in {place}", fix="Rename or drop one of them."
            )
        known.add(name)
        for kind in _inside(field.type):
            refuse_repeated(kind, place, f"{above}{field.name}.")


def _inside(kind: pa.DataType) -> Iterator[pa.DataType]:
    """The structs of a type that no other struct holds."""
    types = pa.types
    if types.is_struct(kind):
        yield kind
    elif types.is_map(kind):
        yield from _inside(kind.key_type)
        yield from _inside(kind.item_type)
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        yield from _inside(kind.value_type)
