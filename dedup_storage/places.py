"""Folders and addresses as settings name them, each in one form. Pure."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["check_place", "local_folder", "place_uri"]

# What looks like an address and lacks a slash: a folder of that name was made in the working directory.
_HALF_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/(?!/)")


def check_place(place: str, setting: str) -> None:
    """Refuse what would be taken for a folder of the working directory.

    Args:
        place: A path or an address.
        setting: What names it.

    Raises:
        ValueError: it is neither; the place is not repeated.
    """
    if _HALF_ADDRESS.match(place) and not place.startswith("file:/"):
        scheme = place.partition(":")[0]
        raise ValueError(f"{setting} is neither a path nor an address; an address begins with {scheme}://")
    if place.startswith("file://") and place[7:8] != "/":
        raise ValueError(f"{setting} names a machine or a relative path; a local address begins with file:///")


def place_uri(place: str) -> str:
    """A folder as an absolute path or an address, without a slash at its end: in a store two of them are another place.

    Example: ``place_uri("s3://logs/lake/")`` -> ``"s3://logs/lake"``
    """
    if place.startswith("file:/") and not place.startswith("file://"):
        # As Java writes it.
        place = f"file://{place.removeprefix('file:')}"
    if "://" not in place:
        return str(Path(place).expanduser().resolve())
    return place.rstrip("/") if place.partition("://")[2].strip("/") else place


def local_folder(place: str) -> Path | None:
    """The directory that a path or an address names; ``None`` on another machine."""
    uri = place_uri(place)
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    return None if "://" in uri else Path(uri)
