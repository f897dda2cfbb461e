"""The site's snippets, run page by page in one folder and one lake, as a reader would type them.

``bash`` blocks are commands of ``dedup-storage``; ``python`` blocks of a page share their names; a block with a title
is the file of that name. Other languages are shown and not run.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dedup_storage.cli import app
from dedup_storage.config import Settings
from tests.site.pages import ROOT, Fence, fences

# In this order: the tutorial makes the log and the dataset that the others use.
PAGES = (
    "docs/tutorial.md",
    "README.md",
    "docs/how-to/training.md",
    "docs/operations.md",
    "docs/how-to/daily-job.md",
    "docs/how-to/samples.md",
    "docs/how-to/features.md",
    "docs/how-to/quality.md",
    "docs/how-to/joins.md",
    "docs/how-to/estimate.md",
    "docs/how-to/late-labels.md",
    "docs/how-to/backfill.md",
    "docs/how-to/erasure.md",
    "docs/how-to/convert.md",
    "docs/how-to/migrate.md",
)
# What takes long and has suites of its own; `make test-slow` runs these pages too.
SLOW = PAGES[4:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's folder."""
    return tmp_path_factory.mktemp("reader")


@pytest.fixture
def reader(spark: Any, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The reader, in the suite's lake and session."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", settings.warehouse)
    return folder


def _run(fence: Fence, names: dict[str, Any], place: str) -> None:
    if fence.title:
        Path(fence.title).write_text(fence.text, encoding="utf-8")
    elif fence.language == "python":
        exec(compile("\n" * (fence.line - 1) + fence.text, place, "exec"), names)  # noqa: S102 - our own pages
    elif fence.language == "bash":
        for line in fence.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if not words:
                continue
            assert words[0] == "dedup-storage", f"{place}: {line}"
            done = CliRunner().invoke(app, words[1:])
            assert done.exit_code == 0, f"{place}: {line}\n{done.output}"


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in PAGES]
)
def test_snippets_run(page: str, reader: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for fence in fences((ROOT / page).read_text(encoding="utf-8")):
        _run(fence, names, page)


def test_every_page_with_snippets_is_run() -> None:
    pages = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
    reference = ROOT / "docs" / "reference"
    runnable = {
        str(page.relative_to(ROOT))
        for page in pages
        if reference not in page.parents
        and any(f.language in ("bash", "python") for f in fences(page.read_text(encoding="utf-8")))
    }
    assert runnable == set(PAGES)
