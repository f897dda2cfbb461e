"""Names and values in SQL text. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from dedup_storage.schema import check_name

__all__ = ["listed", "literal", "located", "quoted"]


def quoted(*parts: str) -> str:
    """A checked, back-quoted identifier.

    Raises:
        UnsafeNameError: a part that could not be an identifier.
    """
    return ".".join(f"`{check_name(part, 'identifier')}`" for part in parts)


def literal(value: str) -> str:
    """A value as the inside of a quoted string."""
    return value.replace("\\", "\\\\").replace("'", "\\'")


def listed(properties: Mapping[str, str]) -> str:
    """Table properties as ``TBLPROPERTIES`` lists them."""
    return ", ".join(f"'{literal(key)}' = '{literal(value)}'" for key, value in properties.items())


def located(place: str | None) -> str:
    """Where a new table lies, as a clause of ``CREATE TABLE``; ``None`` leaves it to the catalog."""
    return "" if place is None else f" LOCATION '{literal(place)}'"
