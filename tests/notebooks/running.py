"""What the tests of notebooks share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def stored(name: str) -> Any:
    """A notebook of the project as it is stored."""
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def assert_clean(name: str) -> None:
    """Stored without outputs, and defines nothing that others could want."""
    notebook = stored(name)
    pytest.importorskip("nbformat").validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert not any(line.startswith(("def ", "class ")) for cell in code for line in cell.source.splitlines())


def outputs(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Run a notebook from top to bottom in an empty folder; gives the outputs of its code cells."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TMPDIR", str(place))
    notebook = stored(name)
    resources = {"metadata": {"path": str(place)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
