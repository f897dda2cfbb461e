"""What the tests of notebooks share."""

from __future__ import annotations

from typing import Any

import pytest


def assert_clean(name: str) -> None:
    """Stored without outputs, and defines nothing that others could want."""
    nbformat = pytest.importorskip("nbformat")
    notebooks = pytest.importorskip("scripts.notebooks")
    notebook = notebooks.stored(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert not any(line.startswith(("def ", "class ")) for cell in code for line in cell.source.splitlines())


def outputs(name: str) -> list[Any]:
    """Run a notebook from top to bottom in an empty folder; gives the outputs of its code cells.

    The site shows what was run here: it is kept for `make docs`, and must have a page.
    """
    notebooks = pytest.importorskip("scripts.notebooks")
    pytest.importorskip("ipykernel")
    notebook = notebooks.executed(name)
    assert notebooks.kept(name) == notebook
    pictures = notebooks.page(name, notebook).pictures
    found = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert len(pictures) == sum("image/png" in o.get("data", {}) for o in found)
    return found
