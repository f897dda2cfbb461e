"""The Markdown pages of the site: their fences, links and anchors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MADE", "ROOT", "Fence", "anchors", "fences", "links", "run_on", "written_pages"]

ROOT = Path(__file__).resolve().parents[2]
# Folders of pages that are made, from the code and from the notebooks.
MADE = (ROOT / "docs" / "reference", ROOT / "docs" / "notebooks")
_FENCE = re.compile(r"^```(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
_LINK = re.compile(r"(?<!!)\[[^\]\[]*\]\(([^)\s]+)\)")
_ITEM = re.compile(r"- |\d+\. ")
_HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Fence:
    """A fenced block.

    Attributes:
        language: ``bash`` and ``python`` are run; others are shown.
        title: Name of the file that it is, or nothing.
        text: What stands in it.
        line: Where it stands, 1-based.
    """

    language: str
    title: str
    text: str
    line: int


def fences(text: str) -> list[Fence]:
    """The fenced blocks of a page, in order."""
    found = []
    for match in _FENCE.finditer(text):
        title = _TITLE.search(match["rest"])
        line = text.count("\n", 0, match.start()) + 2
        found.append(Fence(match["language"], title[1] if title else "", match["text"], line))
    return found


def written_pages() -> list[Path]:
    """The pages that people write: the site's, and those at the root."""
    return [
        *sorted(p for p in (ROOT / "docs").rglob("*.md") if not {*MADE} & {*p.parents}),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    ]


def run_on(text: str) -> list[int]:
    """Lines, 1-based, where a table or a list follows on text or a fence: the site shows bars and dashes so."""
    found, before = [], ""
    for number, line in enumerate(_FENCE.sub(_emptied, text).split("\n"), 1):
        begins = (line.startswith("|") and not before.startswith("|")) or (
            _ITEM.match(line) and not _ITEM.match(before.lstrip()) and not before.startswith("  ")
        )
        if begins and before.strip() and not before.startswith("#"):
            found.append(number)
        before = line
    return found


def _emptied(fence: re.Match[str]) -> str:
    """As many lines of text without a meaning."""
    return "\n".join(["-"] * (fence[0].count("\n") + 1))


def links(text: str) -> Iterator[str]:
    """Targets of a page's links, those in code left out."""
    yield from _LINK.findall(re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text)))


def anchors(text: str) -> set[str]:
    """Names of a page's headings, as the site gives them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        name, number = slug, 0
        while name in found:
            number += 1
            name = f"{slug}_{number}"
        found.add(name)
    return found
