"""A log's columns beside those of the dataset it is written into."""

from __future__ import annotations

from dataclasses import replace

from dedup_storage.errors import SchemaError, known_names
from dedup_storage.layout import DatasetSpec
from dedup_storage.sources.raw import RawLog

__all__ = ["fitted"]


def fitted(raw: RawLog, spec: DatasetSpec) -> RawLog:
    """The log with the dataset's types, where that changes no value.

    Raises:
        SchemaError: a column is missing, unknown to the dataset, or of a type that cannot be made the dataset's.
    """
    found = raw.source_types()
    expected = spec.types
    for name in expected:
        if name not in found:
            raise SchemaError(
                f"the log lacks the column {name} of the dataset {spec.name}",
                expected=", ".join(expected),
                got=known_names(name, found),
            )
    for name, kind in found.items():
        if name not in expected:
            raise SchemaError(
                f"the dataset {spec.name} does not have the log's column {name}",
                expected=known_names(name, expected),
                fix="Drop it from the log, or add it to the dataset as a feature group.",
            )
        if kind != expected[name]:
            break
    else:
        return raw
    made = raw.with_types(expected)
    for name, kind in made.source_types().items():
        if kind != expected[name]:
            raise SchemaError(
                f"the column {name} has another type than before",
                expected=expected[name],
                got=kind,
                fix=f"Cast the column in the log to {expected[name]}.",
            )
    return replace(made, schema=raw.schema)
