"""Settings as environment variables: which place among the settings' values a variable names. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from dedup_storage.documents import plain_values
from dedup_storage.errors import ConfigError
from dedup_storage.secrets import is_secret_name

__all__ = ["COMPOUND", "ENV_PREFIX", "LEVELS", "refuse_same", "set_variable", "variable_place"]

ENV_PREFIX = "DEDUP_STORAGE_"
# Between the levels of a nested key.
LEVELS = "__"
# Sections -> their settings that hold several values, given as YAML. Everything else is a text, taken as it stands: a
# password may begin with a bracket.
COMPOUND: Mapping[str, tuple[str, ...]] = {
    "catalog": ("properties",),
    "spark": ("packages", "conf"),
    "quality": (),
    "write": (),
    "lineage": ("transport",),
}
# Mappings whose keys are others': of the catalog and its store, of Spark, of a lineage receiver.
_FREE = (("catalog", "properties"), ("spark", "conf"), ("lineage", "transport"))
# The one among them whose values are of any type.
_TYPED = ("lineage", "transport")
_NO_TEXT = re.compile(r"(?i:true|false)|(?:0|[1-9]\d*)(?:\.\d+)?")


def refuse_same(variables: Iterable[str]) -> None:
    """Refuse variables that name one setting, of which one would count.

    Raises:
        ConfigError: names both.
    """
    seen: dict[tuple[str, ...], str] = {}
    for variable in variables:
        other = seen.setdefault(variable_place(variable), variable)
        if other != variable:
            raise ConfigError(f"the variables {other} and {variable} set the same", fix="Remove one of them.")


def set_variable(values: dict[str, Any], variable: str, value: str) -> None:
    """Put one environment variable's value at its place among the file's values.

    Raises:
        ConfigError: it holds no YAML, or names a key of what is no mapping; its value is not repeated.
    """
    *sections, key = variable_place(variable)
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
        place[key] = _value((*sections, key), value)
    except yaml.YAMLError:
        raise ConfigError(
            f"the variable {variable} holds no YAML",
            expected="a list such as [a, b], or a mapping such as {a: b}",
            fix="Correct it; its value is not repeated here.",
        ) from None


def variable_place(variable: str) -> tuple[str, ...]:
    """Where a variable's value stands among the settings."""
    told = variable.removeprefix(ENV_PREFIX).split(LEVELS)
    free = 2 if tuple(part.lower() for part in told[:2]) in _FREE else len(told)
    # Keys of others (Spark's) are told apart by case; where there is none to be seen they are in lower case.
    return tuple(part.lower() if level < free or part.isupper() else part for level, part in enumerate(told))


def _value(place: tuple[str, ...], text: str) -> Any:
    """What a variable's text means at its place.

    Raises:
        yaml.YAMLError: it is a list or a mapping that cannot be read.
    """
    section, *rest = place
    if is_secret_name(place[-1]):
        # A file that holds a secret mostly ends with a line end, which is none of it.
        return text.rstrip("\r\n") or None
    whole = section in COMPOUND and (not rest or (len(rest) == 1 and rest[0] in COMPOUND[section]))
    typed = place[:2] == _TYPED and len(place) > len(_TYPED)
    if (whole or typed) and text[:1] in ("[", "{"):
        return plain_values(text)
    if typed:
        # Of a receiver's settings nobody here knows which are texts; false and 3 are none.
        return plain_values(text.lower()) if _NO_TEXT.fullmatch(text) else text
    # Nothing stands for what is not given.
    return text or None
