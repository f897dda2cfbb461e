"""Who may import whom, and what an import may load."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import dedup_storage

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
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
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


def test_command_line_starts_without_engines() -> None:
    assert not set(HEAVY) & _import(["dedup_storage.cli"])


@pytest.mark.parametrize("package", ["reader", "dedup", "sampling", "training"])
def test_imports_without_pyspark(package: str) -> None:
    loaded = _import(_modules(package), blocked=("pyspark", "py4j", "great_expectations", "delta", "matplotlib"))
    assert "dedup_storage" in loaded


@pytest.mark.parametrize(
    "package", ["dataset", "lake", "sources", "spark", "quality", "report", "synth", "sampling", "dedup"]
)
def test_imports_without_torch(package: str) -> None:
    assert "torch" not in _import(_modules(package), blocked=("torch",))


def test_blocked_packages_are_really_blocked() -> None:
    with pytest.raises(AssertionError, match="No module named 'pyspark'"):
        _import(["dedup_storage.lake.session"], blocked=("pyspark",))
