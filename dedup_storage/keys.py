"""Which values stand for exactly one key. Pure: the one answer that Spark's side, the reader and lists of ids share.

Floats never do: two integers above 2**53 are one float, and pandas makes integers floats where one is missing. Truth
values and times are no integers. A text names an integer key in its plain form alone: ``0042``, ``4e1`` and ``42.0``
are not the key 42.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from enum import StrEnum
from numbers import Integral

__all__ = ["PLAIN_INTEGER", "IdList", "KeyKind", "names_keys", "places_text", "plain_key", "plain_keys"]

PLAIN_INTEGER = "^(0|-?[1-9][0-9]*)$"
_PLAIN = re.compile(PLAIN_INTEGER)
_MOST_PLACES = 3


class KeyKind(StrEnum):
    """What a type's values are, as far as keys go."""

    INTEGER = "integer"
    TEXT = "text"
    WHOLE_DECIMAL = "decimal of whole numbers"
    DECIMAL = "decimal"
    DATE = "date"
    OTHER = "other"


def names_keys(given: KeyKind, stored: KeyKind) -> bool:
    """Whether every value of one kind names at most one key of another; equal types are not asked for."""
    kinds = {
        KeyKind.TEXT: {KeyKind.TEXT, KeyKind.INTEGER},
        KeyKind.INTEGER: {KeyKind.INTEGER, KeyKind.TEXT, KeyKind.WHOLE_DECIMAL},
        KeyKind.WHOLE_DECIMAL: {KeyKind.INTEGER, KeyKind.TEXT},
        KeyKind.DECIMAL: {KeyKind.INTEGER, KeyKind.TEXT},
        KeyKind.DATE: {KeyKind.TEXT},
    }
    return given in kinds.get(stored, ())


def plain_key(value: object, stored: KeyKind, bits: int = 64) -> int | str | None:
    """The key of an integer or a text column that a value at hand names; ``None`` where it names none.

    Args:
        value: An integer, a whole ``Decimal`` or a text; everything else names no key.
        stored: ``INTEGER`` or ``TEXT``.
        bits: Width of the integers.
    """
    whole: int | None = None
    kind = KeyKind.OTHER
    if isinstance(value, str):
        kind = KeyKind.TEXT
        whole = int(value.strip()) if _PLAIN.match(value.strip()) else None
    elif isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        kind, whole = KeyKind.WHOLE_DECIMAL, int(value)
    elif not isinstance(value, bool) and isinstance(value, Integral):
        kind, whole = KeyKind.INTEGER, int(value)
    if not names_keys(kind, stored):
        return None
    if stored is KeyKind.TEXT:
        return value if isinstance(value, str) else str(whole)
    return whole if whole is not None and -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1) else None


class IdList(list[str]):
    """Ids of a file, each with the line on which it stands.

    Attributes:
        lines: As many numbers, from 1.
    """

    def __init__(self, ids: Iterable[str], lines: Sequence[int]) -> None:
        super().__init__(ids)
        self.lines = list(lines)


def plain_keys(values: Iterable[object], stored: KeyKind, bits: int = 64) -> tuple[list[int | str], str | None]:
    """The keys that values at hand name, and what is wrong with the others in words without any of them.

    Example: plain_keys([1, 2.5], KeyKind.INTEGER) -> ([1], "1 of 2: number 2")
    """
    given = list(values)
    keys = [plain_key(value, stored, bits) for value in given]
    wrong = [place for place, key in enumerate(keys) if key is None]
    if not wrong:
        return [key for key in keys if key is not None], None
    lines = values.lines if isinstance(values, IdList) else None
    shown = [place + 1 if lines is None else lines[place] for place in wrong]
    told = places_text("number" if lines is None else "line", shown)
    return [key for key in keys if key is not None], f"{len(wrong)} of {len(given)}: {told}"


def places_text(what: str, places: Sequence[int]) -> str:
    """The first of some places in words. Example: ``"lines 2, 5, 9 and 4 more"``"""
    shown = ", ".join(map(str, places[:_MOST_PLACES]))
    more = f" and {len(places) - _MOST_PLACES} more" if len(places) > _MOST_PLACES else ""
    return f"{what}{'s' if len(places) > 1 else ''} {shown}{more}"
