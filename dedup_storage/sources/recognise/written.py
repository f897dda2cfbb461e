"""The schema file as text, each key with the reasons for what it says. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dedup_storage.schema import LogSchema

__all__ = ["schema_text"]

_HEADER = "# Meaning of the log's columns, as it was detected from their names and the data: check it once.\n"


def schema_text(schema: LogSchema, reasons: Mapping[str, Sequence[str]], unsure: Mapping[str, str]) -> str:
    """The file's text.

    Args:
        schema: The schema.
        reasons: Key of the file -> why.
        unsure: What is not sure, in sentences, by role or column.
    """
    values: dict[str, Any] = schema.to_dict()
    lines = [_HEADER]
    lines += [f"# Not sure: {text}\n" for text in unsure.values()]
    for key, value in values.items():
        lines += [f"# {reason}\n" for reason in reasons.get(key, ())]
        lines.append(yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True))
    return "".join(lines)
