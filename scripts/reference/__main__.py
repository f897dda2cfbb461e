"""``python -m scripts.reference [FOLDER]`` writes the reference pages into a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from scripts.reference import PAGES


def main(folder: Path) -> None:
    """Write every page whose text changed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        path, text = folder / name, page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference"))
