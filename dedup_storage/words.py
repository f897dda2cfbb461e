"""Numbers and names as messages and tables say them."""

from __future__ import annotations

__all__ = ["counted", "human_bytes"]

_PLURAL_VERBS = {"is": "are", "has": "have", "was": "were", "does": "do"}
_HISSING = ("s", "x", "z", "ch", "sh")


def _plural(noun: str) -> str:
    """The plural of a regular English noun."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(_HISSING) else f"{noun}s"


def counted(count: int, noun: str, verb: str = "") -> str:
    """A number with its noun, and with the verb that follows, both in the right form.

    Args:
        count: How many.
        noun: Singular; of several words the last one changes.
        verb: As it stands behind one: ``is``, ``has``, or any verb in its -s form.

    Example: ``counted(1, "row", "has")`` -> ``"1 row has"``; ``counted(1200, "entry")`` -> ``"1,200 entries"``
    """
    if count != 1:
        head, _, last = noun.rpartition(" ")
        noun = f"{head} {_plural(last)}".strip()
        verb = _PLURAL_VERBS.get(verb, verb.removesuffix("s"))
    return f"{count:,} {noun} {verb}".rstrip()


def human_bytes(size_bytes: float) -> str:
    """Bytes in decimal units. Example: ``human_bytes(128_800_000)`` -> ``"128.8 MB"``."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
