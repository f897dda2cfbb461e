"""YAML as plain values, and the numbers among them. Pure.

A key that stands twice in a mapping is refused: YAML's own loader takes the last one, and what the first one said is
gone without a word. So is a truth value where a number belongs: Python counts with it as with 1 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator

from dedup_storage.errors import UsageError

__all__ = ["Number", "WholeNumber", "number", "plain_values", "read_values"]


def number(value: Any) -> Any:
    """The value, of whatever type, unless it is a truth value or NaN, which only look like numbers.

    Raises:
        ValueError: it is one.
    """
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is a truth value and no number")
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("NaN is no number: nothing is less than it, and nothing greater")
    return value


# Fields of what people write.
WholeNumber = Annotated[int, BeforeValidator(number)]
Number = Annotated[float, BeforeValidator(number)]


class _RepeatedKeyError(yaml.MarkedYAMLError):
    """A key stands twice in one mapping."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                key = (key_node.tag, key_node.value)
                if key in seen:
                    raise _RepeatedKeyError(
                        problem=f"the key {key_node.value} stands twice", problem_mark=key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def plain_values(text: str) -> Any:
    """The values of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML; a key that stands twice among it.
    """
    # The loader knows plain values alone, as the safe one that it is made of.
    return yaml.load(text, Loader=_Loader)  # noqa: S506


def read_values(
    path: str | Path, what: str, error: type[UsageError], *, fix: str | None = None, secret: bool = False
) -> Any:
    """The values of a YAML file.

    Args:
        path: The file.
        what: What it is, for messages.
        error: What is raised.
        fix: What to do where it cannot be read.
        secret: Nothing of its text is repeated.

    Raises:
        UsageError: of the kind given: it cannot be read, is not written in UTF-8, is no YAML, or has a key twice;
            tells the line.
    """
    try:
        return plain_values(Path(path).read_text(encoding="utf-8"))
    except OSError as found:
        raise error(f"{what} {path} cannot be read: {found.strerror}", fix=fix) from None
    except UnicodeDecodeError:
        raise error(
            f"{what} {path} is not written in UTF-8", fix="Convert it, for example with iconv -f ENCODING -t utf-8."
        ) from None
    except yaml.YAMLError as found:
        problem, mark = getattr(found, "problem", None) or "malformed", getattr(found, "problem_mark", None)
        told = "" if secret and not isinstance(found, _RepeatedKeyError) else f": {problem}"
        place = f", line {mark.line + 1}" if mark else ""
        raise error(f"{what} {path} is not YAML{place}{told}") from None
