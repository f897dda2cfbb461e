"""What `make` says when Python or Java is missing or does not fit: one sentence each, before anything is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_machine.sh"
TOOLS = ("sh", "uname", "sed", "grep", "head", "echo")


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of programs that is the whole PATH: this Python, standard tools, no Java."""
    for tool in TOOLS:
        for place in ("/bin", "/usr/bin"):
            if Path(place, tool).exists():
                (tmp_path / tool).symlink_to(Path(place, tool))
                break
    _program(tmp_path / "python3", f'exec "{sys.executable}" "$@"')
    return tmp_path


def _java(machine: Path, version: str) -> None:
    _program(machine / "java", f"echo 'openjdk version \"{version}\" 2024-01-01' >&2")


def _check(machine: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(machine), **more}
    return subprocess.run(["/bin/sh", str(SCRIPT)], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", ["17", "17.0.15", "21.0.2"])
def test_a_fitting_machine_gives_its_python(machine: Path, version: str) -> None:
    _java(machine, version)
    done = _check(machine)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "python3", "")


@pytest.mark.parametrize(
    ("version", "needle"),
    [
        (None, "Java 17 or 21 is needed, found none on the PATH; install it with:"),
        ("1.8.0_392", "found 1.8.0_392, which is too old; install it with:"),
        ("11.0.21", "found 11.0.21, which is too old; install it with:"),
        ("25", "found 25, which Spark does not support yet; install it with:"),
    ],
)
def test_java_is_asked_for_in_one_sentence(machine: Path, version: str | None, needle: str) -> None:
    if version:
        _java(machine, version)
    done = _check(machine)
    assert done.returncode == 1
    assert done.stdout == ""
    assert needle in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_java_home_decides(machine: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("jdk")
    _java(machine, "17")
    done = _check(machine, JAVA_HOME=str(home))
    assert f"found none in JAVA_HOME ({home})" in done.stderr
    (home / "bin").mkdir()
    _java(home / "bin", "21")
    assert _check(machine, JAVA_HOME=str(home)).returncode == 0


def test_old_python_and_missing_java_are_told_together(machine: Path) -> None:
    _program(machine / "python3", 'case "$2" in *print*) echo 3.9;; *) exit 1;; esac')
    done = _check(machine)
    assert done.returncode == 1
    first, second = done.stderr.strip().splitlines()
    assert first.startswith("error: Python 3.11 or newer is needed, found 3.9; install it with:")
    assert second.startswith("error: Java 17 or 21 is needed")


def test_python_without_venv_names_the_package(machine: Path) -> None:
    _java(machine, "17")
    _program(machine / "python3", 'case "$2" in *print*) echo 3.11;; *ensurepip*) exit 1;; *) exit 0;; esac')
    assert "apt install python3.11-venv" in _check(machine).stderr


def test_scripts_are_executable() -> None:
    assert all(os.access(path, os.X_OK) for path in SCRIPT.parent.glob("*.sh"))
