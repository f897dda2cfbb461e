"""The site's reference pages, made from the code: commands, settings, schema keys, errors, the Python surface.

Beside them the pages that live outside ``docs``: changelog, contributing, benchmarks.

``python -m scripts.reference [FOLDER]`` writes them (``docs/reference`` by default). They are no part of the
repository: the site is built from what the code says at that moment, so a page cannot drift from it.
``tests/unit/test_site.py`` holds that every command, option, setting, schema key, error and public name is there.
"""

from __future__ import annotations

from collections.abc import Callable

from scripts.reference.commands import commands_page
from scripts.reference.errors import errors_page
from scripts.reference.outside import outside_page
from scripts.reference.settings import schema_page, settings_page
from scripts.reference.surface import surface_page

__all__ = ["PAGES"]

# File below the folder -> what makes its text.
PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "settings.md": settings_page,
    "schema.md": schema_page,
    "errors.md": errors_page,
    "python.md": surface_page,
    "changelog.md": lambda: outside_page("CHANGELOG.md"),
    "contributing.md": lambda: outside_page("CONTRIBUTING.md"),
    "benchmarks.md": lambda: outside_page("benchmarks/README.md"),
}
