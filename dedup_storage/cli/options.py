"""Options that several jobs share, each an annotated type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dedup_storage.errors import UsageError

__all__ = [
    "ConfigOption",
    "DatasetOption",
    "DebugOption",
    "DryRunOption",
    "FormerSqlOption",
    "GateOption",
    "JsonOption",
    "LogFormat",
    "QuietOption",
    "RunIdOption",
    "SchemaOption",
    "SqlOption",
    "VersionOption",
    "YesOption",
    "keep_once",
    "pairs",
    "refuse_idle",
]


class LogFormat(StrEnum):
    """Formats of a raw log; ``json`` is JSON lines, ``delta`` and ``iceberg`` are folders of such tables."""

    PARQUET = "parquet"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    DELTA = "delta"
    ICEBERG = "iceberg"
    TABLE = "table"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="DEDUP_STORAGE_CONFIG",
        show_envvar=False,
        help="Settings file; else the one that DEDUP_STORAGE_CONFIG names, conf/local.yaml, or the embedded defaults.",
    ),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the summary as JSON to this file ('-': standard output).")
]
DebugOption = Annotated[
    bool,
    typer.Option(
        "--debug", envvar="DEDUP_STORAGE_DEBUG", show_envvar=False, help="Show stack traces and Spark's own output."
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", envvar="DEDUP_STORAGE_QUIET", show_envvar=False,
        help="Print errors alone; --json still writes the summary.",
    ),
]  # fmt: skip
DatasetOption = Annotated[
    str, typer.Option("--dataset", envvar="DEDUP_STORAGE_DATASET", show_envvar=False, help="Name of the dataset.")
]
RunIdOption = Annotated[
    str | None,
    typer.Option(
        "--run-id",
        envvar="DEDUP_STORAGE_RUN_ID",
        show_envvar=False,
        help="Identity of this execution: running again with the same id changes nothing, and other input is refused.",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]
GateOption = Annotated[bool, typer.Option("--gate/--no-gate", help="Audit the rows before they are published.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
SqlOption = Annotated[
    list[str] | None, typer.Option("--sql", help="COLUMN=EXPRESSION, the column's values as SQL; repeatable.")
]
# How --sql was spelled in some commands before.
FormerSqlOption = Annotated[list[str] | None, typer.Option("--set", "--expression", hidden=True)]
SchemaOption = Annotated[
    Path | None, typer.Option("--schema", help="Log schema (YAML); needed until the dataset exists.")
]
VersionOption = Annotated[int | None, typer.Option("--version", min=1, help="Version to read; the newest by default.")]


def pairs(option: str, values: Iterable[str]) -> dict[str, str]:
    """Options of the form ``NAME=TEXT``.

    Args:
        option: How the option is spelled, for the message.
        values: What was given.

    Raises:
        UsageError: one of them has another form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for value in values:
        name, sign, text = value.partition("=")
        if not sign or not name.strip() or not text.strip():
            raise UsageError(f"the option {option} cannot be read", expected="COLUMN=EXPRESSION", got=repr(value[:80]))
        keep_once(option, found, name.strip(), text.strip())
    return found


def keep_once(option: str, found: dict[str, Any], name: str, value: Any) -> None:
    """Keep what an option says of a name.

    Raises:
        UsageError: it has said something of that name before, which would count for nothing.
    """
    if name in found:
        raise UsageError(f"the option {option} is given twice for {name[:80]}", expected="each name once")
    found[name] = value


def refuse_idle(given: Mapping[str, bool], beside: str, other: str | None = None) -> None:
    """Refuse options that would change nothing.

    Args:
        given: Option -> whether it was given, beyond its default.
        beside: What makes them idle, to follow "does nothing".
        other: The option that could be left out instead.

    Raises:
        UsageError: names the options.
    """
    idle = [option for option, told in given.items() if told]
    if idle:
        instead = "" if other is None else f", or leave out {other}"
        raise UsageError(f"{idle[0]} does nothing {beside}", fix=f"Leave out {' and '.join(idle)}{instead}.")
