"""The notebooks as pages of the site, with what their cells give when they are run.

``python -m scripts.notebooks [FOLDER]`` writes them (``docs/notebooks`` by default). They are no part of the
repository, as the reference pages: notebooks are stored without outputs, and a page shows what the code gives at that
moment. A cell that fails, and an output that tells of the machine that ran it, end the command.

An executed notebook is kept under ``out/notebooks`` until it, the package or a library that it stands on changes, so
that a second build, or one after the tests of the notebooks, runs none.
"""

from __future__ import annotations

from scripts.notebooks.page import Page, page
from scripts.notebooks.running import NAMES, NotebookError, executed, kept, stored

__all__ = ["NAMES", "NotebookError", "Page", "executed", "kept", "page", "stored"]
