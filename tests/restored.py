"""Datasets that many tests begin from: each is built once a worker, and put back in its place for every test.

To put one back takes a tenth of what it takes to create and write it. It has one name, so no two are in use at once;
whatever a test made under names that begin with it is gone when it is put back.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable
from pathlib import Path

from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from tests.integration.images import BEFORE, Images

__all__ = ["restored"]

Step = Callable[[Dataset], object]
# What was built: warehouse, format, kind and steps -> its image.
_BUILT: dict[tuple[Hashable, ...], Images] = {}


def restored(
    spark: SparkSession, lake: Settings, kind: Hashable, build: Callable[[str], Dataset], *steps: Step
) -> Dataset:
    """A dataset as ``build`` and the steps left it.

    Args:
        spark: The session of the suite.
        lake: The suite's lake, with a table format.
        kind: What is built, one word for the same dataset; formats and warehouses are told apart by themselves.
        build: Makes the dataset under the name given.
        steps: What is done to it then, one after the other; datasets share the steps with which they begin.
    """
    warehouse = Path(str(lake.local_warehouse))
    key = (warehouse, lake.format, kind, *steps)
    if key in _BUILT:
        return _BUILT[key].restore(BEFORE)
    unique = f"t_{uuid.uuid4().hex[:12]}"
    if steps:
        ds = restored(spark, lake, kind, build, *steps[:-1])
        steps[-1](ds)
    else:
        ds = build(unique)
    images = Images(spark, lake, warehouse.parent / "built" / unique, [ds.name])
    images.take(BEFORE)
    _BUILT[key] = images
    return ds
