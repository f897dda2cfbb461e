"""The site: links lead somewhere, all notebooks are shown, the reference pages hold everything that the code has."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

import dedup_storage
from dedup_storage.quality.own import SUPPORTED
from scripts.notebooks import NAMES, stored
from scripts.notebooks import page as notebook_page
from scripts.reference import PAGES
from scripts.reference.commands import commands, shown_options
from scripts.reference.errors import error_classes
from scripts.reference.settings import schema_models, setting_names
from scripts.reference.surface import public_names
from tests.site.pages import ROOT, anchors, links, run_on, written_pages


@pytest.fixture(scope="module")
def made() -> dict[Path, str]:
    """The pages that are made from the code."""
    return {ROOT / "docs" / "reference" / name: page() for name, page in PAGES.items()}


@pytest.fixture(scope="module")
def site(made: dict[Path, str]) -> dict[Path, str]:
    """All pages by their place; those of notebooks without what the code gives."""
    notebooks = {ROOT / "docs" / "notebooks" / f"{name}.md": notebook_page(name, stored(name)).text for name in NAMES}
    return {**made, **notebooks, **{p: p.read_text(encoding="utf-8") for p in written_pages()}}


def test_every_link_leads_to_a_page_and_a_heading(site: dict[Path, str]) -> None:
    broken = []
    for page, text in site.items():
        for link in links(text):
            path, _, anchor = link.partition("#")
            if "://" in path:
                continue
            target = (page.parent / path).resolve() if path else page
            if (not target.exists() and target not in site) or (
                anchor and anchor not in anchors(site.get(target) or target.read_text(encoding="utf-8"))
            ):
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken


def test_tables_and_lists_are_shown_as_such(site: dict[Path, str]) -> None:
    fence = "```\nx\n```\n"
    assert run_on(f"{fence}| a |\n|---|\n| b |\n\ntext:\n- c\n  d\n- e\n") == [4, 9]
    assert not run_on(f"{fence}\n| a |\n|---|\n\n- c\n  d\n- e\n\n## f\n1. g\n2. h\n```\ni\n- k\n```\n")
    assert not {f"{page.relative_to(ROOT)}: {line}" for page, text in site.items() for line in run_on(text)}


def test_the_site_lists_every_page(site: dict[Path, str]) -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def listed(entries: list[dict[str, object]]) -> set[str]:
        found: set[str] = set()
        for entry in entries:
            for value in entry.values():
                found |= {value} if isinstance(value, str) else listed(value)  # type: ignore[arg-type]
        return found

    docs = ROOT / "docs"
    assert listed(config["nav"]) == {str(page.relative_to(docs)) for page in site if docs in page.parents}


def test_every_notebook_is_shown_and_described() -> None:
    assert sorted(NAMES) == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    described = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert all(f"](notebooks/{name}.md)" in described for name in NAMES)


def test_every_command_and_option_is_described(made: dict[Path, str]) -> None:
    page = made[ROOT / "docs" / "reference" / "commands.md"]
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")[1:]}
    for name, command in commands():
        assert command.help
        for option in shown_options(command):
            assert option.help, f"{name} {option.name}"
            spelled = option.name.upper() if option.param_type_name == "argument" else option.opts[0]
            assert f"| `{spelled}`" in sections[name]
    assert {"write", "versions pin", "features add", "sample create", "datasets rename"} <= set(sections)


def test_every_setting_key_and_error_is_described(made: dict[Path, str]) -> None:
    folder = ROOT / "docs" / "reference"
    for name in setting_names():
        assert f"| `{name}` |" in made[folder / "settings.md"]
    for model in schema_models().values():
        for key in model.model_fields:
            assert f"| `{key}` |" in made[folder / "schema.md"]
    for expectation in SUPPORTED:
        assert f"| `{expectation}` |" in made[folder / "schema.md"]
    for kind in error_classes():
        assert f"\n## {kind.__name__}\n" in made[folder / "errors.md"]
    for page in ("settings.md", "schema.md"):
        assert "|  |" not in made[folder / page], "a key without a meaning"


def test_every_message_that_is_raised_is_there(made: dict[Path, str]) -> None:
    page = made[ROOT / "docs" / "reference" / "errors.md"]
    names = {kind.__name__ for kind in error_classes()}
    shown = 0
    for path in Path(dedup_storage.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
            if call and node.args and isinstance(node.args[0], ast.Constant):  # type: ignore[attr-defined]
                text = str(node.args[0].value)  # type: ignore[attr-defined]
                assert text.replace("_", "\\_").replace("<", "&lt;").replace("|", "") in page.replace("|", "") or (
                    "`" in text
                ), f"{path}: {text}"
                shown += 1
    assert shown > 50


def test_every_public_name_is_there(made: dict[Path, str]) -> None:
    page = made[ROOT / "docs" / "reference" / "python.md"]
    names = {name for _, name, _ in public_names()}
    assert set(dedup_storage.__all__) - {"__version__"} <= names
    assert all(f"\n### {name}\n" in page for name in names)
