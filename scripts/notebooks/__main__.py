"""``python -m scripts.notebooks [FOLDER]`` writes the pages of the notebooks into a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from scripts.notebooks import NAMES, NotebookError, executed, kept, page


def main(folder: Path) -> int:
    """Write every page with its pictures; the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    for name in NAMES:
        notebook = kept(name)
        if notebook is None:
            print(f"Running notebooks/{name}.ipynb ...", flush=True)  # noqa: T201
        try:
            made = page(name, notebook or executed(name))
        except NotebookError as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
            return 1
        files = {f"{name}.md": made.text.encode(), **made.pictures}
        for file, content in files.items():
            path = folder / file
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
        written |= set(files)
    # Pictures that no page shows any more.
    for name in NAMES:
        for path in folder.glob(f"{name}-*.png"):
            if path.name not in written:
                path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/notebooks")))
