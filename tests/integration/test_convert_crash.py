"""A conversion from flat to split, and between the formats, that dies on the way, then is gone on with."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.layout import Layout
from tests.integration.conftest import Recorded, case
from tests.integration.crash_jobs import JOBS, log
from tests.integration.processes import kill
from tests.spark.helpers import same_rows

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

STEPS = ["convert:begun", "convert:part-0", "convert:part-1", "convert:part-2"]
# Parts that are there at a point, parts found done by the run that goes on.
PARTS = {
    "convert:begun": (0, 0),
    "publish:after-claim": (0, 1),
    "convert:part-0": (1, 1),
    "convert:part-1": (2, 2),
    "convert:part-2": (3, 3),
}
CASES = [
    ("iceberg", "delta", "publish:after-claim"),
    ("iceberg", "delta", "convert:part-1"),
    case("delta", "delta", "publish:after-claim", alike=True),
    *(case("delta", "iceberg", point, alike=point != "convert:part-0") for point in PARTS),
]


@pytest.mark.parametrize(("source", "target", "point"), CASES)
def test_a_crash_at_every_step(recorded: Recorded, source: str, target: str, point: str) -> None:
    images = recorded(f"convert-to-{target}", source)
    assert [p for p in images.points if p.startswith("convert:")] == STEPS
    goes_on(images.restore(point), target, point)


@pytest.mark.slow
def test_a_killed_process(spark: SparkSession, settings: Settings, name: str) -> None:
    ds = JOBS["convert-to-delta"].prepare(spark, settings, name)
    kill(ds, "convert-to-delta", "publish:after-claim")
    goes_on(ds, "delta", "publish:after-claim")


def goes_on(ds: Dataset, target: str, point: str) -> None:
    """Everything is there once."""
    raw, lake = log(ds.spark, [1, 2, 3]), ds.settings.model_copy(update={"format": target})
    there, done = PARTS[point]
    half = Dataset.open(ds.spark, lake, f"{ds.name}_b")
    assert half.metadata().current == there
    summary = JOBS[f"convert-to-{target}"].act(ds)
    assert (summary.already_done, summary.requests, summary.impressions, len(summary.parts)) == (done, 15, 45, 3)
    turned = Dataset.open(ds.spark, lake, half.name)
    assert turned.spec.layout is Layout.SPLIT
    same_rows(turned.logs(), raw.frame)
    same_rows(ds.logs(), raw.frame)
    assert all(not v.pins for v in ds.versions())
