"""Refusals of a row from inside an expression, and what is made of them when the job ends."""

from __future__ import annotations

import re

from pyspark.sql import Column
from pyspark.sql import functions as F

from dedup_storage.errors import InputError

__all__ = ["raise_input", "raised_input"]

# Characters that no text of ours holds stand around the parts.
_MARK, _BETWEEN = "dedup_storage refuses", "\x1f"
_RAISED = re.compile(_BETWEEN.join([_MARK, "(.*?)", "(.*?)", "(.*?)", "(.*?)", ""]), re.DOTALL)


def raise_input(what: str, expected: str, fix: str, example: Column, most: int) -> Column:
    """An expression that refuses the log where it is evaluated.

    Args:
        what, expected, fix: Parts of the error.
        example: Text to show.
        most: Characters of it.
    """
    told = F.substring(F.coalesce(example.cast("string"), F.lit("null")), 1, most)
    return F.raise_error(F.concat(F.lit(_BETWEEN.join([_MARK, what, expected, fix, ""])), told, F.lit(_BETWEEN)))


def raised_input(text: str) -> InputError | None:
    """The error that an expression raised, found in what Spark tells of it."""
    found = _RAISED.search(text)
    if found is None:
        return None
    what, expected, fix, example = found.groups()
    return InputError(what, expected=expected, got=repr(example), fix=fix)
