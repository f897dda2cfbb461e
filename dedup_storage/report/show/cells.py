"""Cells of the tables: ratios and bytes, with their intervals."""

from __future__ import annotations

from dedup_storage.report.model import Range
from dedup_storage.words import human_bytes

__all__ = ["span", "times"]


def times(value: float | None) -> str:
    """A ratio. Example: ``times(73.94)`` -> ``"73.9x"``"""
    if value is None:
        return "-"
    return f"{value:.0f}x" if value >= 100 else f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def span(value: Range | None, rough: bool = False) -> str:
    """Bytes with their interval, if they were estimated."""
    if value is None:
        return "-"
    if value.low == value.high:
        return human_bytes(value.value)
    if rough:
        return f"about {human_bytes(value.value)}"
    return f"{human_bytes(value.value)} ({human_bytes(value.low)} to {human_bytes(value.high)})"
