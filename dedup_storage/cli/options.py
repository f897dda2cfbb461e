"""Options that several jobs share, each an annotated type."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ConfigOption",
    "DatasetOption",
    "DebugOption",
    "JsonOption",
    "LogFormat",
    "RunIdOption",
    "SchemaOption",
    "VersionOption",
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
        help="Settings file; conf/local.yaml when there is one, else the embedded defaults.",
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
DatasetOption = Annotated[
    str, typer.Option("--dataset", envvar="DEDUP_STORAGE_DATASET", show_envvar=False, help="Name of the dataset.")
]
RunIdOption = Annotated[
    str | None,
    typer.Option(
        "--run-id",
        envvar="DEDUP_STORAGE_RUN_ID",
        show_envvar=False,
        help="Identity of this execution: running again with the same id changes nothing.",
    ),
]
SchemaOption = Annotated[
    Path | None, typer.Option("--schema", help="Log schema (YAML); needed until the dataset exists.")
]
VersionOption = Annotated[int | None, typer.Option("--version", min=1, help="Version to read; the latest by default.")]
