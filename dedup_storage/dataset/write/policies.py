"""What a write is told to do with dates, inconstant requests and repeated keys."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Mode", "OnDuplicates", "OnInconstant"]


class Mode(StrEnum):
    """What a write does to the event dates it brings."""

    APPEND = "append"
    REPLACE = "replace"


class OnInconstant(StrEnum):
    """What to do with requests whose request-grain columns differ between rows."""

    REFUSE = "refuse"
    FIRST = "first"
    QUARANTINE = "quarantine"


class OnDuplicates(StrEnum):
    """What to do with keys that occur twice, or are in the dataset already."""

    REFUSE = "refuse"
    KEEP_ONE = "keep-one"
