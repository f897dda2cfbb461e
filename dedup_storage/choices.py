"""Options that take one of a few words. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TypeVar

from dedup_storage.errors import UsageError

__all__ = ["choice"]

E = TypeVar("E", bound=StrEnum)


def choice(kind: type[E], value: E | str, meaning: str, among: Iterable[E] | None = None) -> E:
    """A member of an enumeration by its value.

    Args:
        kind: The enumeration.
        value: A member or its text.
        meaning: What is chosen, for the message.
        among: Its members that can be chosen here; ``None`` for all.

    Raises:
        UsageError: there is no such value; names those that do exist.

    Example: ``choice(Grain, "request", "grain")`` -> ``Grain.REQUEST``
    """
    members = tuple(kind) if among is None else tuple(among)
    for member in members:
        if member.value == value:
            return member
    raise UsageError(
        f"the {meaning} {str(value)[:80]} is not known", expected=" or ".join(member.value for member in members)
    )
