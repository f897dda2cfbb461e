"""What the events of a Delta dataset say, folded. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Versions", "fold"]


@dataclass
class Versions:
    """What the events say.

    Attributes:
        claims: Version -> facts of the run that decided it.
        published: Version -> body: ``snapshots`` (table -> Delta version), ``rows``, ``definitions``.
        pins: Version -> labels.
        tags: (table, name) -> Delta version.
        samples: Named sample -> its record.
        sample_numbers: Named sample -> number of its record.
    """

    claims: dict[int, dict[str, str]] = field(default_factory=dict)
    published: dict[int, dict[str, Any]] = field(default_factory=dict)
    pins: dict[int, set[str]] = field(default_factory=dict)
    tags: dict[tuple[str, str], int] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)
    sample_numbers: dict[str, int] = field(default_factory=dict)


def fold(rows: Iterable[Mapping[str, Any]]) -> Versions:
    """What events say, in whatever order they come."""
    found = Versions()
    for row in rows:
        number = row["version"]
        if row["event"] == "claim":
            found.claims[number] = {**json.loads(row["body"]), "created-ms": str(row["at_ms"])}
        elif row["event"] == "published":
            found.published[number] = json.loads(row["body"])
        elif row["event"] == "pin":
            found.pins.setdefault(number, set()).add(row["label"])
        elif row["event"] == "tag":
            table_name, _, tag = row["label"].partition("/")
            found.tags[table_name, tag] = max(number, found.tags.get((table_name, tag), number))
        elif row["event"] == "sample" and number > found.sample_numbers.get(row["label"], 0):
            found.sample_numbers[row["label"]] = number
            found.samples[row["label"]] = json.loads(row["body"])["record"]
    return found
