"""The site's snippets, run page after page in one folder and one lake, as a reader would type them.

``bash`` blocks are commands of ``dedup-storage``; ``python`` blocks of a page share their names; a block with a title
is the file of that name. The lines of a ``text`` block are printed by the block before it. Others are only shown.
"""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dedup_storage.cli import app
from dedup_storage.config import Settings
from tests.site.pages import ROOT, Fence, fences, written_pages

# The tutorial makes the log and the dataset that the pages after it use.
TUTORIAL = "docs/tutorial.md"
EVERY_DAY = ("README.md", TUTORIAL, "docs/how-to/training.md", "docs/how-to/scoring.md", "docs/operations.md")
# What takes long and has suites of its own.
OTHERS = (
    "docs/how-to/daily-job.md",
    "docs/how-to/columns.md",
    "docs/how-to/samples.md",
    "docs/how-to/features.md",
    "docs/how-to/quality.md",
    "docs/how-to/joins.md",
    "docs/how-to/estimate.md",
    "docs/how-to/late-labels.md",
    "docs/how-to/backfill.md",
    "docs/how-to/migrate.md",
    "docs/how-to/erasure.md",
    "docs/how-to/convert.md",
    "docs/how-to/doctor.md",
    "docs/how-to/lineage.md",
)
# Pages whose blocks are sketches: they name tensors or trainers of the reader's own.
SHOWN = (
    "docs/sharing.md",
    "docs/frameworks.md",
    "docs/frameworks/lightning.md",
    "docs/frameworks/accelerate.md",
    "docs/frameworks/torchrec.md",
)


@pytest.fixture
def reader(spark: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader in an empty folder, in the suite's lake and session."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEDUP_STORAGE_WAREHOUSE", settings.warehouse)


def _run(fence: Fence, names: dict[str, Any], place: str) -> str:
    """Do what a block says; gives what it printed."""
    if fence.title:
        Path(fence.title).write_text(fence.text, encoding="utf-8")
        return ""
    if fence.language == "python":
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile("\n" * (fence.line - 1) + fence.text, place, "exec"), names)  # noqa: S102 - our own pages
        return printed.getvalue()
    output = ""
    for line in fence.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "dedup-storage", f"{place}: {line}"
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, f"{place}: {line}\n{done.output}"
        output += done.output
    return output


def _walk(pages: tuple[str, ...]) -> None:
    for page in pages:
        names: dict[str, Any] = {"__name__": "__main__"}
        printed = ""
        for fence in fences((ROOT / page).read_text(encoding="utf-8")):
            if fence.language in ("bash", "python") or fence.title:
                printed = _run(fence, names, page)
            elif fence.language == "text":
                for line in fence.text.splitlines():
                    assert line == "…" or line in printed, f"{page}:{fence.line} shows what is not printed\n{printed}"


# One test, not one a page: they follow one another, and processes share the tests among themselves.
def test_readme_and_tutorial_run(reader: None) -> None:
    _walk(EVERY_DAY)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_how_tos_run(reader: None) -> None:
    _walk((TUTORIAL, *OTHERS))


def test_every_page_with_snippets_is_run() -> None:
    runnable = {
        str(page.relative_to(ROOT))
        for page in written_pages()
        if any(f.language in ("bash", "python") for f in fences(page.read_text(encoding="utf-8")))
    }
    assert runnable - {*SHOWN} == {*EVERY_DAY, *OTHERS}
