"""Small logs in odd forms, and the ways into a dataset that the tests of sources share."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from dedup_storage.cli import app
from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.schema import LogSchema
from dedup_storage.sources.raw import RawLog

__all__ = ["BASE", "FLAT", "SCHEMA", "Case", "moment", "put", "rows", "text"]

FLAT: dict[str, Any] = {"user": "user_id", "request": ["request_id"], "item": "item_id", "labels": ["label"]}
BASE: dict[str, Any] = FLAT | {"event_time": "request_time", "sequences": [{"column": "hist"}]}
SCHEMA = (
    "user: user_id\nrequest: [request_id]\nitem: item_id\nevent_time: request_time\nlabels: [label]\n"
    "sequences: [{column: hist}]\n"
)


@dataclass(frozen=True)
class Case:
    """One test's session and settings, in an empty folder.

    Attributes:
        spark, settings: Of the suite.
    """

    spark: SparkSession
    settings: Settings

    def write(
        self,
        name: str,
        source: object,
        schema: Mapping[str, Any] = BASE,
        *,
        format: str | None = None,
        gate: bool = True,
        mode: str = "append",
        on_duplicates: str = "refuse",
        **layout: Any,
    ) -> Dataset:
        """Write a source into a dataset, which is created where it is not there."""
        described = LogSchema.from_dict(schema)
        raw = RawLog.read(self.spark, str(source), schema=described, format=format)
        dataset = Dataset.create(self.spark, self.settings, name, described, raw, **layout)
        dataset.write(raw, gate=gate, mode=mode, on_duplicates=on_duplicates)
        return dataset

    def open(self, name: str) -> Dataset:
        """A dataset by name."""
        return Dataset.open(self.spark, self.settings, name)

    def logs(self, dataset: Dataset | str) -> pd.DataFrame:
        """The dataset's log, row for row."""
        found = self.open(dataset) if isinstance(dataset, str) else dataset
        return found.logs().toPandas()

    def cli(self, *arguments: object) -> tuple[int, str]:
        """A command's exit status, and what it printed."""
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        return result.exit_code, result.output


def moment(day: int = 1, hour: int = 0, us: int = 0) -> dt.datetime:
    """A time of June 2024, without a zone."""
    return dt.datetime(2024, 6, day, hour, 0, 0, us)


def rows(
    users: Iterable[Any] = (1, 2), reqs: int = 2, cands: int = 3, day: int = 1, **more: Any
) -> list[dict[str, Any]]:
    """Impressions of ``reqs`` requests of each user, ``cands`` in each."""
    return [
        {
            "user_id": user,
            "request_id": f"{user}-{day}-{request}",
            "request_time": moment(day, request),
            "item_id": 10 * candidate + request,
            "label": int(candidate == 0),
            "hist": [1, 2, 3][: request + 1],
            **more,
        }
        for user in users
        for request in range(reqs)
        for candidate in range(cands)
    ]


def put(path: str, data: pa.Table | list[dict[str, Any]]) -> str:
    """Write a Parquet file; gives its place."""
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data if isinstance(data, pa.Table) else pa.Table.from_pylist(data), place)
    return path


def text(path: str, content: str, encoding: str = "utf-8") -> str:
    """Write a text file, line breaks as they are; gives its place."""
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content.encode(encoding))
    return path
