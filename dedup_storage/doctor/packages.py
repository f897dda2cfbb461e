"""Which Python packages are there, held against what the toolkit says it needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from dedup_storage.lake.probing import Finding, State

__all__ = ["Requirement", "extra_found", "fits", "requirements"]

_OURS = "dedup_storage"
_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(?:\[(?P<parts>[^\]]*)\])?\s*(?P<spec>[^;]*?)\s*"
    r"(?:;.*extra == ['\"](?P<extra>\w+)['\"])?"
)
_BOUND = re.compile(r"(==|!=|>=|<=|>|<)\s*([0-9][^,\s]*)")
# What a package needs for one of its own extras, as far as the toolkit names these.
_PARTS = {"sql-postgres": "psycopg2-binary", "sql-sqlite": "sqlalchemy"}


@dataclass(frozen=True)
class Requirement:
    """A package that an extra needs.

    Attributes:
        package: Its name in the registry.
        spec: Its versions, such as ``>=1.0,<2``; empty for any.
    """

    package: str
    spec: str


def requirements(extra: str) -> list[Requirement]:
    """Packages of one of the toolkit's extras, from its own metadata; none where it is not installed as a package."""
    try:
        lines = metadata.requires(_OURS) or []
    except metadata.PackageNotFoundError:
        return []
    return [found for line in lines for found in _read(line, extra)]


def _read(line: str, extra: str) -> Iterator[Requirement]:
    match = _LINE.fullmatch(line)
    if match is None or match["extra"] != extra:
        return
    yield Requirement(match["name"], match["spec"])
    for part in (match["parts"] or "").split(","):
        if part in _PARTS:
            yield Requirement(_PARTS[part], "")


def fits(version: str, spec: str) -> bool:
    """Whether a version keeps all bounds; numbers are compared, what follows them is not."""
    ours = _numbers(version)
    for sign, bound in _BOUND.findall(spec):
        other = _numbers(bound)
        size = max(len(ours), len(other))
        pair = tuple(n + (0,) * (size - len(n)) for n in (ours, other))
        held = {
            "==": pair[0] == pair[1], "!=": pair[0] != pair[1], ">=": pair[0] >= pair[1], "<=": pair[0] <= pair[1],
            ">": pair[0] > pair[1], "<": pair[0] < pair[1],
        }[sign]  # fmt: skip
        if not held:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def extra_found(extra: str, *, absent: State = State.MISSING) -> Finding:
    """What is installed of an extra.

    Args:
        extra: Its name.
        absent: How it counts when a package is not there.
    """
    needed = requirements(extra)
    install = f"pip install 'dedup_storage[{extra}]'"
    if not needed:
        return Finding(
            "the toolkit is not installed as a package, so nothing says what it needs", State.WARNING, install
        )
    versions = {need: _version(need.package) for need in needed}
    gone = [need.package for need, version in versions.items() if version is None]
    if gone:
        return Finding(f"not installed: {', '.join(gone)}", absent, f"Run {install}.")
    others = [
        f"{need.package} {version} ({need.spec} is what was tried)"
        for need, version in versions.items()
        if version is not None and not fits(version, need.spec)
    ]
    if others:
        return Finding(", ".join(others), State.WARNING, f"Run {install}.")
    return Finding(", ".join(f"{need.package} {version}" for need, version in versions.items()))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
