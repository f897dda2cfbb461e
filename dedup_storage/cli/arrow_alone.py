"""Commands that hold rows in Arrow are spared the loading of pandas, a fifth of what a small one costs."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__all__ = ["arrow_alone", "own_process"]

_processes = {"own": False}


class _Hidden:
    """A finder by which a package is not there."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> None:
        """Refuse the package; of others it knows nothing."""
        if name == self._package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def own_process() -> None:
    """Say that this process runs one command and ends."""
    _processes["own"] = True


def arrow_alone() -> None:
    """Let Arrow go on without pandas to the end of this process, which must give it no value of pandas.

    Arrow looks for pandas once, with the first value that it is given, to know pandas' own values from others. It looks
    here, while there is none to find. A process that others use too is left as it is.
    """
    if not _processes["own"] or "pandas" in sys.modules:
        return
    import pyarrow as pa

    hidden: Any = _Hidden("pandas")
    sys.meta_path.insert(0, hidden)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(hidden)
