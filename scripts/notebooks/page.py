"""A notebook as a Markdown page: its texts, its code, and what the code gave."""

from __future__ import annotations

import base64
import re
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.notebooks.running import ROOT, NotebookError
from scripts.notebooks.tables import html_table
from scripts.reference.markdown import compact

__all__ = ["Page", "page"]

_HEADING = re.compile(r"^#+ (.+?)\s*$", re.MULTILINE)
_DOCS_LINK = re.compile(r"\]\(\.\./docs/([^)]+)\)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# What is another one each time, whatever the machine: addresses in memory, random ids, names of temporary folders.
_RANDOM = re.compile(r"0x[0-9a-f]{6,}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|/tmp/|\btmp\w{8}\b")


@dataclass
class Page:
    """A page and the pictures that lie beside it.

    Attributes:
        text: Markdown.
        pictures: File name -> PNG.
    """

    text: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)


def page(name: str, notebook: Any) -> Page:
    """The page of a notebook; of one that was not run, without what its code gives.

    Raises:
        NotebookError: An output is of a kind that pages do not have, or tells of the machine.
    """
    made = Page()
    parts = []
    heading = ""
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "markdown":
            heading = (_HEADING.findall(cell.source) or [heading])[-1]
            parts.append(_DOCS_LINK.sub(r"](../\1)", cell.source))
            if number == 1:
                parts.append(_origin(name))
        elif cell.cell_type == "code":
            parts.append(_fence(cell.source, "python"))
            parts += _outputs(cell.outputs, made, f"notebooks/{name}.ipynb, cell {number}", f"{name}-{{}}.png", heading)
    made.text = compact("\n\n".join(parts))
    return made


def _origin(name: str) -> str:
    return f"This page is `notebooks/{name}.ipynb` as it ran when the site was built; [others](../notebooks.md)."


def _outputs(outputs: list[Any], made: Page, place: str, picture: str, heading: str) -> Iterator[str]:
    printed = "".join(o.text for o in outputs if o.output_type == "stream")
    if printed.strip():
        yield _fence(_same_everywhere(_COLOURS.sub("", printed), place), ".text .output")
    for output in outputs:
        if output.output_type == "stream":
            continue
        data = output.get("data", {})
        if "image/png" in data:
            name = picture.format(len(made.pictures) + 1)
            made.pictures[name] = base64.b64decode(data["image/png"])
            width = output.metadata.get("image/png", {}).get("width", "")
            yield f"![{heading}]({name}){{ .plot{f' width={width}' if width else ''} }}"
        elif "<table" in data.get("text/html", ""):
            yield html_table(_same_everywhere(data["text/html"], place))
        elif "text/plain" in data and "text/html" not in data:
            yield _fence(_same_everywhere(data["text/plain"], place), ".text .output")
        else:
            raise NotebookError(f"{place}: an output of {sorted(data) or output.output_type} has no form on a page")


def _same_everywhere(text: str, place: str) -> str:
    folders = (str(ROOT), str(Path.home()), tempfile.gettempdir())
    told = [folder for folder in folders if folder.strip("/") and folder in text] + _RANDOM.findall(text)
    host = socket.gethostname()
    # A machine may be called as other things are.
    if re.search(rf"(?<![\w-]){re.escape(host)}(?![\w-])", text) and not host.isalpha():
        told.append(host)
    if told:
        raise NotebookError(f"{place}: an output tells of the machine, or of this one run: {', '.join(told)}")
    return text


def _fence(text: str, language: str) -> str:
    ticks = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    kind = f"{{ {language} }}" if language.startswith(".") else language
    return f"{ticks}{kind}\n{text.rstrip()}\n{ticks}"
