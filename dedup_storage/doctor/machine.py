"""Probes of the machine and of what the settings name: Java, packages, jars, where verdicts go. No JVM is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping

from dedup_storage.config import FORMATS, CatalogType, Settings
from dedup_storage.doctor.packages import extra_found
from dedup_storage.errors import ConfigError
from dedup_storage.lake.probing import Finding, Jar, NewFolders, Probes, State
from dedup_storage.lake.rooms import room_part

__all__ = ["JARS", "JAVA", "PACKAGES", "find_java", "jars_needed", "named_jars", "take_machine"]

JAVA, PACKAGES, JARS = "Java", "packages: spark", "jars for Spark"
_OLDEST_JAVA, _NEWEST_JAVA = 17, 23
_JAVA_REMEDY = "Install Java 17 or 21, and set JAVA_HOME or put java on the PATH."
_SECONDS = 30
_OTHER_JARS = ("spark.jars", "spark.jars.packages", "spark.driver.extraClassPath")
# Package of a catalog -> how it is installed.
_CLIENTS = {
    CatalogType.GLUE: ("boto3", "pip install 'pyiceberg[glue]'"),
    CatalogType.HIVE: ("thrift", "pip install 'pyiceberg[hive]'"),
}
_SIGNED = ("boto3", "pip install boto3, with which PyIceberg signs requests (rest.sigv4-enabled)")


def take_machine(settings: Settings, probes: Probes, *, spark: bool) -> None:
    """Take the probes.

    Args:
        settings: The configuration.
        probes: Takes the results.
        spark: Whether Spark is to be probed too; what only it needs is looked for then alone.
    """
    take = probes.take
    take("Python", lambda: f"{sys.version.partition(' ')[0]}, {sys.executable}")
    if spark:
        take(JAVA, find_java, remedy=_JAVA_REMEDY)
    # What only writes need is not missing where nothing is to be written.
    absent = State.MISSING if spark else State.WARNING
    take(PACKAGES, lambda: extra_found("spark", absent=absent))
    take("packages: reader", lambda: extra_found("reader", absent=State.WARNING))
    if not settings.has_catalog:
        take("packages: delta", lambda: extra_found("delta"))
    elif settings.catalog.type is CatalogType.JDBC:
        take("packages: postgres", lambda: extra_found("postgres"))
    elif (client := _client_of(settings)) is not None:
        take("packages: catalog", lambda: _client(*client))
    if settings.quality.enabled:
        take("packages: quality", lambda: extra_found("quality", absent=absent))
    if settings.lineage.on:
        take("packages: lineage", lambda: extra_found("lineage"))
    take(JARS, lambda: named_jars(settings, absent=absent))
    take("folder for verdicts", lambda: _verdicts(settings, absent=absent))


def find_java(environ: Mapping[str, str] | None = None) -> Finding:
    """The Java that Spark would start: that of ``JAVA_HOME``, else the one on the path."""
    environ = os.environ if environ is None else environ
    home = environ.get("JAVA_HOME")
    where = f"in JAVA_HOME ({home})" if home else "on the PATH"
    program = f"{home}/bin/java" if home else shutil.which("java", path=environ.get("PATH"))
    if program is None or not os.access(program, os.X_OK):
        return Finding(f"none is there {where}", State.MISSING, _JAVA_REMEDY)
    done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    found = re.search(r'version "([^"]+)"', done.stderr + done.stdout)
    if found is None:
        return Finding(f"{program} does not tell its version", State.MISSING, _JAVA_REMEDY)
    major = int(re.split(r"\D", found[1].removeprefix("1."))[0])
    if major < _OLDEST_JAVA:
        return Finding(f"{found[1]} {where} is too old", State.MISSING, _JAVA_REMEDY)
    if major > _NEWEST_JAVA:
        return Finding(f"{found[1]} {where}, which Spark does not support yet", State.MISSING, _JAVA_REMEDY)
    return Finding(f"{found[1]} {where}")


def _client_of(settings: Settings) -> tuple[str, str] | None:
    """The package that a catalog's own client needs, and how it is installed."""
    catalog = settings.catalog
    signs = str(catalog.properties.get("rest.sigv4-enabled", "")).lower() == "true"
    return _SIGNED if catalog.type is CatalogType.REST and signs else _CLIENTS.get(catalog.type)


def _client(package: str, install: str) -> Finding:
    from importlib.util import find_spec

    if find_spec(package) is not None:
        return Finding(f"{package} is installed")
    return Finding(f"not installed: {package}", State.MISSING, f"Run {install}.")


def jars_needed(settings: Settings) -> list[Jar]:
    """The jars that Spark needs, whatever format asks for them."""
    return [jar for name in FORMATS for jar in room_part(name, "probes").jars_needed(settings)]


def named_jars(settings: Settings, *, absent: State = State.MISSING) -> Finding:
    """Whether the settings name the jars that are needed, in versions that were tried; ``absent``: when they do not."""
    named = settings.spark.packages
    if not named:
        return Finding("the settings name none: the cluster has to bring its own")
    versions = {package.rpartition(":")[0]: package.rpartition(":")[2] for package in named}
    # Delta's is added by itself to packages that are fetched.
    needed = [jar for jar in jars_needed(settings) if ":delta-spark_" not in jar.coordinate]
    lacking = [jar for jar in needed if jar.artifact not in versions]
    if lacking:
        told = "; ".join(f"{jar.coordinate} for {jar.purpose}{_near(jar, versions)}" for jar in lacking)
        others = any(key in settings.spark.conf for key in _OTHER_JARS)
        return Finding(
            f"spark.packages does not name {told}",
            State.WARNING if others else absent,
            "Name it under spark.packages, unless Spark gets it in another way.",
        )
    changed = [jar for jar in needed if versions[jar.artifact] != jar.coordinate.rpartition(":")[2]]
    if changed:
        return Finding(
            ", ".join(f"{jar.artifact}:{versions[jar.artifact]}" for jar in changed),
            State.WARNING,
            f"Tried was {', '.join(jar.coordinate for jar in changed)}.",
        )
    return Finding(", ".join(f"{jar.artifact.partition(':')[2]} {versions[jar.artifact]}" for jar in needed))


def _near(jar: Jar, versions: Mapping[str, str]) -> str:
    """A jar of the same name for another Spark or Scala, which is the likely mistake."""
    stem = jar.artifact.rpartition("-")[0]
    other = next((artifact for artifact in versions if "_2." in jar.artifact and artifact.startswith(f"{stem}-")), None)
    return f" (it names {other}, for another Spark)" if other else ""


def _verdicts(settings: Settings, *, absent: State) -> Finding:
    """Whether the gate can write its verdicts."""
    if not settings.quality.enabled:
        return Finding("the gate is off (quality.enabled)", State.NOT_NEEDED)
    try:
        folder = settings.docs_folder
    except ConfigError as error:
        return Finding(error.what, absent, error.fix)
    if settings.quality.docs is None:
        return Finding("inside the warehouse")
    new = NewFolders(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        told = f"nothing can be written to {folder}: {error.strerror}"
        return Finding(told, absent, "Set quality.docs to another folder.")
    finally:
        new.remove()
    return Finding(f"{folder}")
