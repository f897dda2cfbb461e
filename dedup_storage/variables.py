"""Settings as environment variables: which place among the settings' values a variable names. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from dedup_storage.documents import plain_values
from dedup_storage.errors import ConfigError

__all__ = ["ENV_PREFIX", "LEVELS", "set_variable"]

ENV_PREFIX = "DEDUP_STORAGE_"
# Between the levels of a nested key.
LEVELS = "__"
# Mappings whose keys are others': of the catalog and its store, of Spark, of a lineage receiver.
_FREE = (("catalog", "properties"), ("spark", "conf"), ("lineage", "transport"))


def set_variable(values: dict[str, Any], variable: str, value: str) -> None:
    """Put one environment variable's value at its place among the file's values.

    Raises:
        ConfigError: it holds no YAML, or names a key of what is no mapping; its value is not repeated.
    """
    told = variable.removeprefix(ENV_PREFIX).split(LEVELS)
    free = 2 if tuple(part.lower() for part in told[:2]) in _FREE else len(told)
    # Keys of others (Spark's) are told apart by case; where there is none to be seen they are in lower case.
    *sections, key = (part.lower() if level < free or part.isupper() else part for level, part in enumerate(told))
    place = values
    for section in sections:
        inner = place.get(section) or {}
        if not isinstance(inner, Mapping):
            raise ConfigError(
                f"the variable {variable} sets a key of {section}, which another variable or the file sets as a whole",
                expected=f"a mapping as {section}",
                fix="Remove one of them.",
            )
        place[section] = inner = dict(inner)
        place = inner
    try:
        # Lists and mappings are given as YAML flow text; scalars are left to pydantic.
        place[key] = plain_values(value) if value[:1] in "[{" else value
    except yaml.YAMLError:
        raise ConfigError(
            f"the variable {variable} holds no YAML",
            expected="a list such as [a, b], or a mapping such as {a: b}",
            fix="Correct it; its value is not repeated here.",
        ) from None
