"""Tables that pandas writes as HTML, with nothing but their cells, so that the site's own style is theirs."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

__all__ = ["html_table"]

_NUMBER = re.compile(r"[-+]?[\d.,]+(?:e[-+]\d+)?\s?%?|nan|NaN", re.IGNORECASE)
_RIGHT = ' style="text-align: right"'


class _Cells(HTMLParser):
    """Rows of (tag, spans, text); what stands outside cells, styles with random ids among it, is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, str, str]]] = []
        self.heads = 0
        self._open = False
        self._in_head = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "thead":
            self._in_head = True
        elif tag == "tr":
            self.rows.append([])
            self.heads += self._in_head
        elif tag in ("th", "td"):
            spans = "".join(f' {k}="{v}"' for k, v in attrs if k in ("colspan", "rowspan") and v != "1")
            self.rows[-1].append((tag, spans, ""))
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "thead":
            self._in_head = False
        elif tag in ("th", "td"):
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            tag, spans, text = self.rows[-1][-1]
            self.rows[-1][-1] = tag, spans, text + data


def html_table(text: str) -> str:
    """The table of a frame as one block of HTML, numbers to the right.

    Args:
        text: What a frame, or its style, shows in a notebook.
    """
    cells = _Cells()
    cells.feed(text)
    numbers = _columns_of_numbers(cells.rows[cells.heads :])
    lines = ["<table>", "<thead>"]
    for i, row in enumerate(cells.rows):
        if i == cells.heads:
            lines += ["</thead>", "<tbody>"]
        lines.append("<tr>")
        for j, (tag, spans, said) in enumerate(row):
            # A head's last row stands over the columns; those above it may span several.
            right = _NUMBER.fullmatch(said.strip()) if i >= cells.heads else not spans and j in numbers
            lines.append(f"<{tag}{spans}{_RIGHT if right else ''}>{html.escape(said.strip(), quote=False)}</{tag}>")
        lines.append("</tr>")
    return "\n".join([*lines, "</tbody>", "</table>"])


def _columns_of_numbers(rows: list[list[tuple[str, str, str]]]) -> set[int]:
    width = max(map(len, rows), default=0)
    full = [row for row in rows if len(row) == width]
    return {j for j in range(width) if full and all(_NUMBER.fullmatch(row[j][2].strip()) for row in full)}
