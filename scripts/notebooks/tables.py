"""Tables that pandas writes as HTML, with nothing but their cells, so that the site's own style is theirs."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

__all__ = ["html_table"]

_NUMBER = re.compile(r"[-+]?[\d.,]+(?:e[-+]\d+)?\s?%?|nan|NaN", re.IGNORECASE)
_RIGHT = ' style="text-align: right"'
# Cells: tag, spans, text.
_Row = list[tuple[str, str, str]]


class _Cells(HTMLParser):
    """Rows of (tag, spans, text); what stands outside cells, styles with random ids among it, is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[_Row] = []
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
            kind, spans, text = self.rows[-1][-1]
            self.rows[-1][-1] = kind, spans, text.strip()

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
    head, body = _head(cells.rows[: cells.heads]), cells.rows[cells.heads :]
    numbers = _columns_of_numbers(body)
    # A head's last row stands over the columns; those above it may span several.
    heads = [_line(row, [not spans and j in numbers for j, (_, spans, _) in enumerate(row)]) for row in head]
    rows = [_line(row, [bool(_NUMBER.fullmatch(said)) for _, _, said in row]) for row in body]
    parts = ["<table>", *(["<thead>", *heads, "</thead>"] if heads else []), "<tbody>", *rows, "</tbody>", "</table>"]
    return "\n".join(parts)


def _head(rows: list[_Row]) -> list[_Row]:
    """A head without empty rows; an index's names, which pandas sets in a row of their own, beside the columns'."""
    rows = [row for row in rows if any(said for _, _, said in row)]
    if len(rows) > 1 and len(rows[-2]) == len(rows[-1]):
        pairs = list(zip(rows[-2], rows[-1], strict=True))
        if not any(over[1] or under[1] or (over[2] and under[2]) for over, under in pairs):
            rows[-2:] = [[(tag, "", over or under) for (tag, _, over), (_, _, under) in pairs]]
    return rows


def _line(row: _Row, right: list[bool]) -> str:
    cells = (
        f"<{tag}{spans}{_RIGHT if to_the_right else ''}>{html.escape(said, quote=False)}</{tag}>"
        for (tag, spans, said), to_the_right in zip(row, right, strict=True)
    )
    return "\n".join(["<tr>", *cells, "</tr>"])


def _columns_of_numbers(rows: list[_Row]) -> set[int]:
    width = max(map(len, rows), default=0)
    full = [row for row in rows if len(row) == width]
    return {j for j in range(width) if full and all(_NUMBER.fullmatch(row[j][2]) for row in full)}
