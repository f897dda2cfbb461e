"""Setting a proposal's properties on a table, through Spark: PyIceberg does not commit to format v3."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dedup_storage.config import Settings
from dedup_storage.errors import UnsafeNameError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["apply_properties"]

_KEY = re.compile(r"write\.parquet\.[A-Za-z0-9_.-]+")
_VALUE = re.compile(r"[A-Za-z0-9]+")


def apply_properties(
    spark: SparkSession, settings: Settings, dataset: str, table: str, properties: Mapping[str, str]
) -> None:
    """Set Parquet properties; files that are there stay as they are, those written from now on follow.

    Args:
        spark: Session that knows the format of the settings.
        settings: Settings of the lake.
        dataset, table: Namespace and table.
        properties: ``write.parquet.…`` -> value.

    Raises:
        UnsafeNameError: a key or value that could not be a Parquet property.
        UsageError: the format has no such property of a table.
    """
    if not properties:
        return
    for key, value in sorted(properties.items()):
        if not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            raise UnsafeNameError(f"the table property {key[:80]!r} cannot be set", expected="write.parquet.NAME=VALUE")
    from dedup_storage.lake.formats import table_format

    table_format(spark, settings).set_encodings(dataset, table, properties)
