"""Java programs for tests, resolved by the Ivy that Spark brings: no other tool is needed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyspark

from tests.servers.processes import QUICK, Unavailable

__all__ = ["class_path", "java"]

_MODULE = """<ivy-module version="2.0" xmlns:m="http://ant.apache.org/ivy/maven">
<info organisation="tests" module="servers"/><configurations><conf name="default"/></configurations>
<dependencies>{dependencies}</dependencies></ivy-module>
"""
_SETTINGS = """<ivysettings><settings defaultResolver="central"/>
<resolvers><ibiblio name="central" m2compatible="true"/></resolvers></ivysettings>
"""


def java() -> str:
    """The Java that Spark starts too.

    Raises:
        Unavailable: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if found is None:
        raise Unavailable("Java is not on the PATH")
    return found


def class_path(coordinates: Sequence[str]) -> str:
    """The jars of Maven coordinates with what they depend on, downloaded once; as Java's class path.

    Args:
        coordinates: ``group:name:version``, with ``:classifier`` for a further jar of the same module.

    Raises:
        Unavailable: they cannot be downloaded.
    """
    (jar,) = (Path(pyspark.__file__).parent / "jars").glob("ivy-2*.jar")
    home = Path.home() / ".ivy2" / "test-servers"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with (home / "lock").open("w") as lock, tempfile.TemporaryDirectory(prefix="dedup-storage-jars-") as folder:
            # Two that download into one cache break each other's.
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _known(home, coordinates) or _resolve(str(jar), coordinates, home, Path(folder))
    except OSError as error:
        raise Unavailable(f"jars cannot be kept in {home}: {error.strerror}") from error


def _note(home: Path, coordinates: Sequence[str]) -> Path:
    """Where the class path of the coordinates is noted once they were resolved: Ivy takes seconds to find it again."""
    return home / f"{hashlib.sha256(' '.join(coordinates).encode()).hexdigest()[:16]}.path"


def _known(home: Path, coordinates: Sequence[str]) -> str | None:
    """The class path as it was noted, if all its jars are there."""
    note = _note(home, coordinates)
    path = note.read_text() if note.is_file() else ""
    return path if path and all(Path(jar).is_file() for jar in path.split(os.pathsep)) else None


def _resolve(ivy: str, coordinates: Sequence[str], home: Path, folder: Path) -> str:
    (folder / "ivy.xml").write_text(_MODULE.format(dependencies="".join(_dependencies(coordinates))))
    (folder / "settings.xml").write_text(_SETTINGS)
    command = [java(), *QUICK.split(), "-cp", ivy, "org.apache.ivy.Main", "-warn", "-cache", str(home / "cache")]
    files = ["-ivy", str(folder / "ivy.xml"), "-settings", str(folder / "settings.xml")]
    done = subprocess.run(
        [*command, *files, "-confs", "default", "-types", "jar", "bundle", "-cachepath", str(folder / "path")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not (folder / "path").is_file():
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "::" in line or "error" in line.lower()]
        raise Unavailable(f"the jars {', '.join(coordinates)} cannot be had: {' '.join(lines)[-400:]}")
    path = (folder / "path").read_text().strip()
    _note(home, coordinates).write_text(path)
    return path


def _dependencies(coordinates: Sequence[str]) -> list[str]:
    modules: dict[tuple[str, str, str], list[str]] = {}
    for coordinate in coordinates:
        group, name, version, *classifier = coordinate.split(":")
        mark = f' m:classifier="{classifier[0]}"' if classifier else ""
        artifact = f'<artifact name="{name}" type="jar" ext="jar"{mark}/>'
        modules.setdefault((group, name, version), []).append(artifact)
    return [
        f'<dependency org="{group}" name="{name}" rev="{version}" conf="default->default">{"".join(jars)}</dependency>'
        for (group, name, version), jars in modules.items()
    ]
