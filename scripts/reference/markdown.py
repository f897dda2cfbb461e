"""Small pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["cell", "compact", "docstring_parts", "escaped", "fields", "table"]

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Example|Examples|Note):\s*$", re.MULTILINE)
_FIELD = re.compile(r"^(?P<indent> *)(?P<names>[A-Za-z_][\w, ]*):\s+(?P<text>.*)$")


def escaped(text: str) -> str:
    """Plain text, so that no character of it is markup; what stands in backquotes stays code."""
    pieces = re.split(r"(`+[^`]*`+)", text)
    for i in range(0, len(pieces), 2):
        pieces[i] = re.sub(r"([\\*_<>\[\]#|{}])", r"\\\1", pieces[i]).replace("\\<", "&lt;").replace("\\>", "&gt;")
    return "".join(pieces).replace("``", "`")


def cell(text: str) -> str:
    """Text of one table cell: one line, and no bar that ends the cell."""
    return " ".join(text.split()).replace("\\|", "|").replace("|", "\\|")


def compact(text: str) -> str:
    """A page's text with single empty lines."""
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; nothing where there are no rows."""
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines]) + "\n"


def docstring_parts(text: str) -> tuple[str, dict[str, str]]:
    """A docstring's description, and its sections (``Args``, ``Raises``, …) by name, each unindented."""
    found = list(_SECTION.finditer(text))
    description = text[: found[0].start()] if found else text
    ends = [m.start() for m in found[1:]] + [len(text)] * bool(found)
    sections = {m[1]: _unindented(text[m.end() : end]) for m, end in zip(found, ends, strict=True)}
    return description.strip(), sections


def fields(section: str) -> list[tuple[str, str]]:
    """(name, text) of each entry of a section; what follows an entry's line belongs to it."""
    rows: list[tuple[str, str]] = []
    for line in section.splitlines():
        match = _FIELD.match(line)
        if match and not match["indent"]:
            rows += [(name.strip(), match["text"]) for name in match["names"].split(",")]
        elif rows and line.strip():
            shared = rows[-1][1]
            rows = [(n, f"{t} {line.strip()}" if t == shared else t) for n, t in rows]
    return rows


def _unindented(text: str) -> str:
    lines = text.strip("\n").splitlines()
    filled = [line for line in lines if line.strip()]
    width = min((len(line) - len(line.lstrip()) for line in filled), default=0)
    return "\n".join(line[width:] for line in lines).strip()
