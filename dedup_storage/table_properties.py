"""Properties that tables are created with: how Parquet encodes their columns, and what they say of themselves."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256

from dedup_storage.event_groups import element_type
from dedup_storage.layout import (
    COLUMNS_PROPERTY,
    MADE_FOR_PROPERTY,
    ROLE_PROPERTY,
    SPEC_PROPERTY,
    DatasetSpec,
    TableRole,
    TableSpec,
)

__all__ = [
    "DICTIONARY_COLUMN",
    "Dictionaries",
    "describing_properties",
    "encoding_properties",
    "feature_lists",
    "made_for",
    "sequence_properties",
]

# Table -> its columns that take a dictionary.
Dictionaries = Mapping[str, Collection[str]]
SEQUENCE_PAGE_BYTES = 8 * 1024**2
ROW_GROUP_BYTES = 128 * 1024**2
# Then the column as Iceberg names it: whether it takes a dictionary.
DICTIONARY_COLUMN = "write.parquet.dict-encoding-enabled.column."
# Events are read by ranges of users, from the beginning of a row group.
EVENT_ROW_GROUP_BYTES = 16 * 1024**2


def encoding_properties(
    spec: DatasetSpec, table: TableSpec, lists: Iterable[str] = (), dictionaries: Collection[str] = ()
) -> dict[str, str]:
    """Parquet properties a new Iceberg table starts from.

    Repetition is only found inside one page, so tables with sequences take large pages; a dictionary hurts long
    sequences of ids and helps lists of few different values (docs/decisions.md, 'Encodings').

    Args:
        spec: The dataset.
        table: The table.
        lists: List columns beside the sequences that the schema names.
        dictionaries: Columns that take a dictionary: of lists, or in a table of events of their elements.
    """
    # Of events each value is stored once, as a column of its own.
    of_events = table.role is TableRole.EVENTS
    known = set() if of_events else {*spec.schema_.sequence_columns}
    sequences = [c for c in table.columns if c in known | {*lists}]
    properties = {
        "write.parquet.compression-codec": "zstd",
        "write.parquet.row-group-size-bytes": str(EVENT_ROW_GROUP_BYTES if of_events else ROW_GROUP_BYTES),
    }
    if sequences:
        properties |= sequence_properties({c: c in dictionaries for c in sequences})
    for column in sequences:
        properties[f"write.metadata.metrics.column.{column}.element"] = "counts"
    # What follows step by step, a dictionary holds once each, and hides from zstd that it does.
    for runs in (r for r in spec.runs_columns if r in table.columns):
        properties |= {f"{DICTIONARY_COLUMN}{runs}.element.{field}": "false" for field in ("start", "length")}
    group = spec.event_group(table.name)
    if group is not None:
        values = [c for c in group.columns if c not in dictionaries] if of_events else []
        flat = [c for c in values if _is_flat(element_type(c, spec.types[c]))]
        properties |= {DICTIONARY_COLUMN + c: "false" for c in (group.position_column, *flat)}
    return properties


def _is_flat(kind: str) -> bool:
    return not kind.strip().lower().startswith(("array", "map", "struct"))


def made_for(spec: DatasetSpec, columns: Mapping[str, str]) -> str:
    """A short text that differs between datasets whose own tables differ.

    Args:
        spec: The dataset.
        columns: Column -> Spark DDL type.
    """
    return sha256(json.dumps([spec.to_json(), sorted(columns.items())]).encode()).hexdigest()[:16]


def describing_properties(spec: DatasetSpec, table: TableSpec, columns: Mapping[str, str]) -> dict[str, str]:
    """Table properties by which tables say what they are; the anchor describes the dataset.

    Args:
        spec: The dataset.
        table: The table.
        columns: Column -> Spark DDL type.
    """
    properties = {ROLE_PROPERTY: table.role.value}
    if table.name in {own.name for own in spec.tables}:
        properties[MADE_FOR_PROPERTY] = made_for(spec, columns)
    if table.name == spec.anchor.name:
        properties[SPEC_PROPERTY] = spec.to_json()
    if table.role is TableRole.FEATURES:
        properties[COLUMNS_PROPERTY] = ", ".join(f"{c} {columns[c]}" for c in table.columns)
    return properties


def feature_lists(table: TableSpec, columns: Mapping[str, str]) -> list[str]:
    """List columns of a feature group's table, which the log's schema does not know."""
    if table.role is not TableRole.FEATURES:
        return []
    return [c for c in table.columns if columns[c].lower().startswith("array<")]


def sequence_properties(dictionaries: Mapping[str, bool]) -> dict[str, str]:
    """What makes repetition in long lists cheap: large pages, and a dictionary only where it stays small.

    Args:
        dictionaries: List column -> whether it takes a dictionary.
    """
    properties = {
        "write.parquet.page-size-bytes": str(SEQUENCE_PAGE_BYTES),
        "write.parquet.row-group-check-min-record-count": "16",
        "write.parquet.row-group-check-max-record-count": "1000",
    }
    for column, on in dictionaries.items():
        properties[f"{DICTIONARY_COLUMN}{column}.element"] = "true" if on else "false"
    return properties
