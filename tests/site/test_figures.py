"""Every measured figure stands beside the command that prints it, and that command exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.site.pages import ROOT

# A quantity as measurements are told: a ratio, a time, bytes. Settings are told in MiB, or by their names.
_FIGURE = re.compile(r"\b\d[\d.,]* ?(?:x|s|ms|MB|GB|kB|minutes)(?![\w-])")
_COMMAND = re.compile(r"`((?:python (?:-m )?[a-z]|make |dedup-storage )[^`]*)`")
# Sections whose quantities are bounds or settings, none of them measured.
_BOUNDS = {
    ("docs/operations.md", "Memory"),
    ("docs/user-grain.md", "What the report says"),
    ("docs/how-to/scoring.md", "A scoring call"),
}
_PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
# Decisions tell what was tried, also by programs that were thrown away; the reference is made from the code, and the
# notebooks' pages show the code that printed each of their figures.
_LEFT_OUT = ("docs/decisions.md", "docs/reference/", "docs/notebooks/")


def _sections(page: str) -> list[tuple[str, str]]:
    """(heading, text) of a page, without its blocks of code."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    parts = re.split(r"(?m)^#+ (.*)$", text)
    return [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]


@pytest.mark.parametrize("page", [p for p in _PAGES if not p.startswith(_LEFT_OUT)])
def test_every_figure_names_its_command(page: str) -> None:
    nameless = [
        f"{page}, '{heading}': {line.strip()}"
        for heading, text in _sections(page)
        if (page, heading) not in _BOUNDS and not _COMMAND.search(text)
        for line in text.splitlines()
        if _FIGURE.search(line)
    ]
    assert not nameless


def test_every_row_of_the_table_of_the_readme_names_its_command() -> None:
    table = dict(_sections("README.md"))["What it saves"]
    rows = [line for line in table.splitlines() if line.startswith("| ") and _FIGURE.search(line)]
    assert len(rows) > 8
    assert [row for row in rows if not _COMMAND.search(row.rsplit("|", 2)[1])] == []


def test_the_commands_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    commands = {
        command
        for page in _PAGES
        if not page.startswith(_LEFT_OUT)
        for _, text in _sections(page)
        for command in _COMMAND.findall(text)
    }
    assert any(command.startswith("python benchmarks/") for command in commands)
    for command in sorted(commands):
        words = shlex.split(command, posix=False)
        if words[0] == "make":
            assert words[1] in targets, command
        elif words[0] == "python" and words[1].endswith(".py"):
            script = Path(ROOT / words[1])
            assert script.is_file(), command
            options = [word for word in words[2:] if word.startswith("--")]
            shared = (ROOT / "benchmarks/_harness.py").read_text(encoding="utf-8")
            source = script.read_text(encoding="utf-8") + shared
            # Choices of `parse_kept` are given by name.
            known = [o for o in options if f'"{o}"' in source or f"{o.removeprefix('--')}=(" in source]
            assert known == options, command
