"""Who may import whom, and what an import may load."""

from __future__ import annotations

import ast
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dedup_storage
from dedup_storage.config import FORMATS, Settings
from dedup_storage.lake.rooms import room_part
from tests.reader.lake import Lake, make_log

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("pyspark", "torch", "pyarrow", "pandas", "great_expectations", "matplotlib", "pyiceberg")
_BLOCK = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
for module in {modules!r}:
    importlib.import_module(module)
print(*sorted(m for m in sys.modules if "." not in m))
"""


def _import(modules: list[str], blocked: tuple[str, ...] = ()) -> set[str]:
    """Import in a fresh process in which ``blocked`` packages are not installed; the top-level modules loaded."""
    code = _BLOCK.format(blocked=set(blocked), modules=modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def _modules(package: str) -> list[str]:
    place = Path(dedup_storage.__file__).parent / package
    return [f"dedup_storage.{package}"] + [
        f"dedup_storage.{package}.{m.name}" for m in pkgutil.iter_modules([str(place)]) if m.name != "__main__"
    ]


def test_import_contracts_hold() -> None:
    # What `make lint` has read of the modules just before is read from its cache.
    command = [str(Path(sys.executable).parent / "lint-imports")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_import_contracts_can_fail(tmp_path: Path) -> None:
    """The contract's teeth: the same linter refuses a module that imports upwards."""
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "low.py").write_text("import toy.high\n")
    (package / "high.py").write_text("")
    (tmp_path / "setup.cfg").write_text(
        "[importlinter]\nroot_package = toy\n"
        "[importlinter:contract:l]\nname = l\ntype = layers\nlayers =\n    toy.high\n    toy.low\n"
    )
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode != 0
    assert "toy.low -> toy.high" in done.stdout


def test_importing_the_package_is_light() -> None:
    assert not set(HEAVY) & _import(["dedup_storage"])


def test_what_a_task_of_a_write_runs_is_light() -> None:
    """Each Python process that Spark starts imports it, before it has done anything."""
    loaded = _import(["dedup_storage.windows.tasks"], blocked=("pyspark", "pydantic", "yaml", "tenacity"))
    assert {"pyarrow", "numpy"} <= loaded
    assert not {"torch", "pandas", "pyiceberg", "rich"} & loaded


def test_command_line_starts_without_engines() -> None:
    assert not set(HEAVY) & _import(["dedup_storage.cli"])


def test_a_log_of_files_is_opened_and_estimated_without_catalogs() -> None:
    """They cost more to load than a small log to read."""
    names = ["sources.forms.flat", "sources.recognise.head", "report.estimate.savings"]
    assert not {"pyiceberg", "deltalake", "pyspark"} & _import([f"dedup_storage.{name}" for name in names])


_COMMANDS = """
import sys
from dedup_storage.cli.app import main

for line in {lines!r}:
    sys.argv = ["dedup-storage", *line.split()]
    status = None
    try:
        main()
    except SystemExit as ended:
        status = ended.code or 0
    heavy = sorted({heavy!r} & set(sys.modules))
    print(line.split()[0], status, *heavy, sep=",", file=sys.stderr)
"""


def test_commands_that_need_no_engine_load_none(tmp_path: Path) -> None:
    """One after the other in one process, the lightest first: what one loads, the next ones have too."""
    Lake(Settings(warehouse=str(tmp_path / "warehouse"))).write("clicks", make_log(users=2))
    log = pa.table({"user_id": [1, 1, 2], "request_id": [5, 5, 6], "item_id": [7, 8, 7], "hist": [[3, 4], [3, 4], []]})
    pq.write_table(log, tmp_path / "log.parquet")
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "unknown.parquet")
    schema = "user: user_id\nrequest: [request_id]\nitem: item_id\nsequences: [{column: hist}]\n"
    (tmp_path / "schema.yaml").write_text(schema)
    lines = [
        "--help",
        "estimate --help",
        "validate log.parquet --schema schema.yaml",
        "estimate log.parquet --schema schema.yaml",
        "datasets list",
        "datasets describe clicks",
        "versions list --dataset clicks",
        "versions status --dataset clicks",
        "infer-schema unknown.parquet",
    ]
    heavy = {"torch", "pyspark", "pandas", "matplotlib", "great_expectations"}
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS.format(lines=lines, heavy=heavy)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "DEDUP_STORAGE_WAREHOUSE": "warehouse", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.split(",")[0] in {line.split()[0] for line in lines}]
    expected = [f"{line.split()[0]},{2 if 'unknown' in line else 0}" for line in lines]
    assert told == expected, done.stderr


def test_imports_without_pyspark() -> None:
    modules = [module for package in ("reader", "dedup", "sampling", "training") for module in _modules(package)]
    loaded = _import(modules, blocked=("pyspark", "py4j", "great_expectations", "delta", "matplotlib"))
    assert "dedup_storage" in loaded


def test_imports_without_torch() -> None:
    packages = ("dataset", "lake", "sources", "spark", "quality", "report", "synth", "sampling", "dedup")
    modules = [module for package in packages for module in _modules(package)]
    assert "torch" not in _import(modules, blocked=("torch",))


def test_blocked_packages_are_really_blocked() -> None:
    with pytest.raises(AssertionError, match="No module named 'pyspark'"):
        _import(["dedup_storage.lake.session"], blocked=("pyspark",))


PACKAGE = Path(dedup_storage.__file__).parent
# What stays private to one adapter; see ``dedup_storage.lake.engine``.
PRIVATE = {"_jvm", "_jsparkSession", "_jdf", "_jsc", "_gateway", "_jwrite", "_jc"}
ROOMS = [["lake", name] for name in FORMATS]
LIBRARIES = ("pyiceberg", "deltalake", "delta")
# Modules that know a table format although they are not of its room, and why.
KNOWING = {
    "dataset/adopt/source.py": "what holds a log that is there is no dataset's format",
    "spark/errors.py": "messages for a package that Spark does not find",
    "lake/folders.py": "PyIceberg knows what a catalog's properties say of a store",
    "reader/open/": "the reader opens files by each format's own library",
    "reader/decode/files.py": "the reader opens files by each format's own library",
    "report/parquet/dataset_files.py": "the report lists files by each format's own library",
    "report/parquet/delta.py": "the report lists files by each format's own library",
    "report/parquet/iceberg.py": "the report lists files by each format's own library",
    "sources/": "a raw log may be a folder of some format's tables, whatever the dataset's own format",
}


@cache
def _sources() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_a_room_with_what_the_registry_calls(name: str) -> None:
    for part, function in (
        ("metadata", "open_lake"),
        ("format", "open_format"),
        ("session", "session_needs"),
        ("scans", "scan_of"),
    ):
        assert callable(getattr(room_part(name, part), function))


def test_private_calls_stay_in_one_adapter() -> None:
    """Spark's handles on Java are touched in ``lake/engine`` alone, and Py4J's errors are named in one place."""
    found = []
    for place, tree in _sources():
        if place.startswith("lake/engine/"):
            continue
        found += [f"{place}: {n.attr}" for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in PRIVATE]
        found += [f"{place}: {name}" for name in _imported(tree) if name.split(".")[0] == "py4j"]
    assert found == ["spark/errors.py: py4j.protocol"]


def test_formats_are_known_in_their_rooms_alone() -> None:
    """A stranger compares with no format's name and imports neither a room nor the library of one."""
    strangers = {}
    for place, tree in _sources():
        if place.startswith(("lake/iceberg/", "lake/delta/", "lake/engine/")):
            continue
        knows = {name for name in _imported(tree) if name.split(".")[0] in LIBRARIES or name.split(".")[1:3] in ROOMS}
        knows |= {value for value in _compared(tree) if value in FORMATS}
        if knows and not place.startswith(tuple(KNOWING)):
            strangers[place] = sorted(knows)
    assert strangers == {}


def _imported(tree: ast.Module) -> Iterator[str]:
    """Modules that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names if node.module == "dedup_storage.lake")


def _compared(tree: ast.Module) -> Iterator[str]:
    """Texts that a module compares something with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                yield from (c.value for c in ast.walk(side) if isinstance(c, ast.Constant) and isinstance(c.value, str))
        elif isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)
