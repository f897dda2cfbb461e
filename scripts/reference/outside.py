"""Pages that live beside the code, with their links turned to where the site has them."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["outside_page"]

_ROOT = Path(__file__).resolve().parents[2]
_DOCS_LINK = re.compile(r"\]\((?:\.\./)?docs/([^)]+)\)")


def outside_page(path: str) -> str:
    """The text of a page of the repository, as a page of ``docs/reference``."""
    text = (_ROOT / path).read_text(encoding="utf-8")
    return _DOCS_LINK.sub(r"](../\1)", text)
