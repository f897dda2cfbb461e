"""Options that take one of a few words. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from dedup_storage.errors import UsageError

__all__ = ["choice"]

E = TypeVar("E", bound=StrEnum)


def choice(kind: type[E], value: E | str, meaning: str) -> E:
    """A member of an enumeration by its value.

    Args:
        kind: The enumeration.
        value: A member or its text.
        meaning: What is chosen, for the message.

    Raises:
        UsageError: there is no such value; names those that do exist.

    Example: ``choice(Grain, "request", "grain")`` -> ``Grain.REQUEST``
    """
    try:
        return kind(value)
    except ValueError:
        raise UsageError(
            f"the {meaning} {str(value)[:80]} is not known", expected=" or ".join(member.value for member in kind)
        ) from None
