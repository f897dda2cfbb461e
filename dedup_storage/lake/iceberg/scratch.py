"""Tables that are made to try what a catalog does, and go again; what a process that was killed left of them.

They lie in a dataset's namespace and are none of its tables: whoever lists these passes them over by their names.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dedup_storage.config import Settings
from dedup_storage.lake.iceberg.catalog import SCRATCH_TABLE, is_scratch
from dedup_storage.lake.sql import quoted
from dedup_storage.spark.errors import JAVA_ERRORS, root_message

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyspark.sql import SparkSession

__all__ = ["drop_left", "scratch_table"]

_logger = logging.getLogger(__name__)


@contextmanager
def scratch_table(spark: SparkSession, settings: Settings, dataset: str, options: str = "") -> Iterator[str]:
    """A table of one column for as long as the block runs; gives its name. Where it cannot be dropped, a warning says
    so.

    Args:
        spark, settings: The catalog.
        dataset: The namespace.
        options: What follows ``USING iceberg`` in the statement that creates it.

    Raises:
        Py4JJavaError, PySparkException: it cannot be created.
    """
    name = f"{SCRATCH_TABLE}{uuid.uuid4().hex[:8]}"
    full = quoted(settings.catalog.name, dataset, name)
    try:
        spark.sql(f"CREATE TABLE {full} (probe int) USING iceberg {options}")
        yield name
    finally:
        _drop(spark, full)


def drop_left(spark: SparkSession, settings: Settings, catalog: Catalog, dataset: str, before_ms: int) -> None:
    """Drop such tables of a dataset that nobody changed since a moment.

    Args:
        spark, settings, catalog: The catalog, as both clients see it.
        dataset: The namespace.
        before_ms: The moment, in milliseconds since 1970.
    """
    from pyiceberg.exceptions import NoSuchTableError

    for *_, name in catalog.list_tables((dataset,)):
        if not is_scratch(name):
            continue
        try:
            changed_ms = catalog.load_table((dataset, name)).metadata.last_updated_ms
        except NoSuchTableError:
            # Dropped since it was listed.
            continue
        if changed_ms < before_ms:
            _drop(spark, quoted(settings.catalog.name, dataset, name))


def _drop(spark: SparkSession, full: str) -> None:
    try:
        spark.sql(f"DROP TABLE IF EXISTS {full} PURGE")
    except JAVA_ERRORS as error:
        _logger.warning(
            "The table %s, made to try the catalog, cannot be dropped: %s. It holds no rows; drop it, or let maintain "
            "or a role with the right to drop tables do so.",
            full,
            root_message(error),
        )
