"""A notebook's page: texts, code, what the code gave, and nothing of the machine."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scripts.notebooks import NotebookError, page
from scripts.notebooks import running as run

nbformat = pytest.importorskip("nbformat")
v4 = nbformat.v4


def _notebook(*outputs: Any, source: str = "1 + 1") -> Any:
    text = v4.new_markdown_cell("# A question\n\nSee [layouts](../docs/user-grain.md).")
    return v4.new_notebook(cells=[text, v4.new_code_cell(source, outputs=list(outputs))])


def _shown(data: dict[str, Any], metadata: dict[str, Any] | None = None) -> Any:
    return v4.new_output("display_data", data=data, metadata=metadata or {})


def test_text_code_and_prints() -> None:
    made = page("mine", _notebook(v4.new_output("stream", text="\x1b[1mtwo\x1b[0m\n"), _shown({"text/plain": "2"})))
    assert made.pictures == {}
    head, origin, *rest = made.text.split("\n\n")[0], *made.text.split("\n\n")[2:]
    assert head == "# A question"
    assert "`notebooks/mine.ipynb`" in origin
    assert "[layouts](../user-grain.md)" in made.text
    assert rest == ["```python\n1 + 1\n```", "```{ .text .output }\ntwo\n```", "```{ .text .output }\n2\n```\n"]


def test_pictures_are_files_with_a_text_and_a_width() -> None:
    picture = {"image/png": base64.b64encode(b"a picture").decode(), "text/plain": "<Figure size 9x3>"}
    made = page("mine", _notebook(_shown(picture, {"image/png": {"width": 640}}), _shown(picture)))
    assert made.pictures == {"mine-1.png": b"a picture", "mine-2.png": b"a picture"}
    assert "![A question](mine-1.png){ .plot width=640 }" in made.text
    assert "![A question](mine-2.png){ .plot }" in made.text


def test_tables_keep_their_cells_and_nothing_else() -> None:
    frame = pd.DataFrame({"name": ["a <b>", "c"], "size": [1_000.5, float("nan")]}, index=pd.Index([3, 4], name="at"))
    text = page("mine", _notebook(_shown({"text/html": frame._repr_html_(), "text/plain": "…"}))).text
    table = text[text.index("<table>") :]
    assert re.findall(r"<(t[hd])[^>]*>([^<]*)</t", table) == [
        ("th", "at"), ("th", "name"), ("th", "size"),
        ("th", "3"), ("td", "a &lt;b&gt;"), ("td", "1000.5"),
        ("th", "4"), ("td", "c"), ("td", "NaN"),
    ]  # fmt: skip
    assert '<td style="text-align: right">1000.5</td>' in table
    assert '<th style="text-align: right">size</th>' in table
    assert "\n\n" not in table  # one block of HTML
    assert not re.search(r"class|border|<style|<div", table)


def test_a_table_whose_columns_have_no_names_has_no_head() -> None:
    html = pd.Series({"a": 1}, name="").to_frame()._repr_html_()
    assert "<thead>" not in page("mine", _notebook(_shown({"text/html": html}))).text


def test_a_table_of_a_style_has_no_random_ids() -> None:
    frame = pd.DataFrame([[0.5, 0.25]], columns=pd.MultiIndex.from_product([["share"], [0.1, 0.2]]))
    shown = frame.style.format("{:.1%}")._repr_html_()
    first, second = (page("mine", _notebook(_shown({"text/html": html}))).text for html in (shown, shown))
    assert first == second
    assert "id=" not in first
    assert '<th colspan="2">share</th>' in first
    assert ">50.0%</td>" in first


@pytest.mark.parametrize(
    "text",
    [
        f"written to {run.ROOT}/out",
        "<Axes at 0x7f8d4f4b7410>",
        "version 0f3c9a1e-1111-2222-3333-0123456789ab",
        "/tmp/tmpab12cd34/raw",  # noqa: S108
    ],
)
def test_an_output_that_tells_of_the_machine_is_refused(text: str) -> None:
    for output in (v4.new_output("stream", text=text), _shown({"text/plain": text})):
        with pytest.raises(NotebookError, match=r"mine\.ipynb, cell 2: an output tells of the machine"):
            page("mine", _notebook(output))


def test_an_output_without_a_form_is_refused() -> None:
    with pytest.raises(NotebookError, match=r"cell 2: an output of \['text/html'\] has no form"):
        page("mine", _notebook(_shown({"text/html": "<button>"})))


def test_code_with_fences_stays_code() -> None:
    assert "````python\nprint('```')\n````" in page("mine", _notebook(source="print('```')")).text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a notebook ``mine``, and another for what is kept."""
    monkeypatch.setattr(run, "FOLDER", tmp_path)
    monkeypatch.setattr(run, "KEPT", tmp_path / "kept")
    return tmp_path


def test_a_run_is_kept_until_the_notebook_changes(folder: Path) -> None:
    pytest.importorskip("ipykernel")
    source = "import os, sys\nprint(1 + 1)\nprint('chatter', file=sys.stderr)\nos.system('echo chatter')\n1 + 1"
    nbformat.write(_notebook(source=source), folder / "mine.ipynb")
    assert run.kept("mine") is None
    done = run.executed("mine")
    assert [o.output_type for o in done.cells[1].outputs] == ["stream", "execute_result"]
    assert "chatter" not in page("mine", done).text.split("```python")[1].partition("```")[2]
    assert run.kept("mine") == done
    nbformat.write(_notebook(source="2 + 2"), folder / "mine.ipynb")
    assert run.kept("mine") is None


def test_a_cell_that_fails_is_told(folder: Path) -> None:
    pytest.importorskip("ipykernel")
    nbformat.write(_notebook(source="1 / 0"), folder / "mine.ipynb")
    with pytest.raises(NotebookError, match=r"(?s)notebooks/mine\.ipynb: .*1 / 0.*ZeroDivisionError"):
        run.executed("mine")
    assert not (folder / "kept").exists()
