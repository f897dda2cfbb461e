"""What the wheel holds, and what the repository says of itself."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import yaml

import dedup_storage
from dedup_storage.engines import ENGINES
from tests.site.pages import ROOT, written_pages

PACKAGE = Path(dedup_storage.__file__).parent


def _setup() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg", encoding="utf-8")
    return found


def test_every_file_of_the_package_is_in_the_wheel() -> None:
    patterns = _setup()["options.package_data"]["*"].split()
    shipped = {
        file
        for folder in (path.parent for path in PACKAGE.rglob("__init__.py"))
        for pattern in patterns
        for file in folder.glob(pattern)
    }
    others = {
        file
        for file in PACKAGE.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc") and "__pycache__" not in file.parts
    }
    assert others <= shipped
    assert PACKAGE / "py.typed" in shipped


def test_citation_and_readme_agree_with_the_package() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == dedup_storage.__version__
    assert cited["license"] == _setup()["metadata"]["license"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120


def test_supported_versions_are_those_that_are_installed() -> None:
    page = (ROOT / "docs" / "support.md").read_text(encoding="utf-8")
    extras = _setup()["options.extras_require"]
    pins = {
        re.split(r"[\[=]", line)[0]: line.partition("==")[2]
        for lines in extras.values()
        for line in lines.split()
        if "==" in line
    }
    tried = [engine.spark for engine in ENGINES.values()]
    assert f"pyspark>={tried[0]},<={tried[-1]}" in extras["spark"].split()
    for engine in ENGINES.values():
        row = " | ".join((engine.spark, *(jar.rpartition(":")[2] for jar in engine.jars)))
        assert f"| {row} |" in page
    for package in ("pyiceberg", "delta-spark", "great-expectations", "apache-airflow"):
        assert pins[package] in page, package
    for python in re.findall(r"Python :: (3\.\d+)", _setup()["metadata"]["classifiers"]):
        assert python in page


def test_every_figure_of_the_readme_names_a_command_that_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## What it saves")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert rows
    for row in rows:
        command = re.search(r"`(make|python) (\S+)[^`]*` \|$", row)
        assert command is not None, row
        exists = command[2] in targets if command[1] == "make" else (ROOT / command[2]).is_file()
        assert exists, row


def test_every_benchmark_that_a_page_names_exists() -> None:
    for page in written_pages():
        for script in re.findall(r"`python ((?:benchmarks|examples)/\w+\.py)", page.read_text(encoding="utf-8")):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"
