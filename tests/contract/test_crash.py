"""Real processes, killed with SIGKILL at every step of a write, its publication and a conversion.

The same on Iceberg for writes, and many at once: ``tests/integration/test_crash.py``. Here the steps follow one another
on one dataset: each process begins where the one before it died, so that recovery is killed too.
"""

from __future__ import annotations

import itertools
import signal
import subprocess

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.lake.delta.metadata import DeltaLake
from dedup_storage.lake.delta.publish import APP
from dedup_storage.layout import Layout
from tests.contract.conftest import MakeLog
from tests.integration.processes import start
from tests.integration.test_crash import AFTER_DECISION, BEFORE_DECISION, first_day
from tests.spark.helpers import same_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Where the process dies in each of its attempts; between them, what lies on the disk differs. From the last staged file
# to the decision nothing is written. Delta has no tag for a table: the version is there once its event is.
APPEND = [BEFORE_DECISION[0], AFTER_DECISION[0], "publish:after-pick-impressions", AFTER_DECISION[-1]]
REPLACE = [BEFORE_DECISION[-1], "publish:after-pick-requests"]


@pytest.fixture
def delta(settings: Settings) -> Settings:
    return settings.model_copy(update={"format": "delta"})


def applied(ds: Dataset, table: str) -> list[int]:
    """Dataset versions whose application transaction is in a table's log, one entry a commit."""
    ref = DeltaLake(ds.settings).ref(ds.name, table)
    marks = [ref.load(v).transaction_version(APP) for v in range(ref.load().version() + 1)]
    return [m for before, m in zip([None, *marks], marks, strict=False) if m is not None and m != before]


def killed(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL, output[-3000:]


def test_kill_9_at_every_step(spark: SparkSession, delta: Settings, name: str, make_log: MakeLog) -> None:
    """An append that its own run finishes, beside it a replacement that somebody else's run finishes."""
    ds, first = first_day(spark, delta, name)
    replaced, _ = first_day(spark, delta, f"{name}_r")
    other_writer = ("writer", "--dataset", replaced.name, "--run-id", "second", "--mode", "replace", "--day", "1")
    for point, beside in itertools.zip_longest(APPEND, REPLACE):
        jobs = [start(delta, "writer", "--dataset", name, "--run-id", "second", fault=point)]
        jobs += [start(delta, *other_writer, fault=beside)] if beside else []
        for job in jobs:
            killed(job)
        for each in (ds, replaced):
            if each is replaced or point != APPEND[-1]:
                assert [v.run_id for v in each.versions()] == ["first"], point
                same_rows(each.logs(), first.frame)

    second = make_log([2], 100)
    both = first.frame.unionByName(second.frame)
    assert [v.run_id for v in ds.versions()] == ["first", "second"]
    same_rows(ds.logs(), both)
    summary = ds.write(second, run_id="second", gate=False)
    assert (summary.version, summary.already_published) == (2, True)
    same_rows(ds.logs(1), first.frame)
    same_rows(ds.logs(), both)
    # However often it was begun and completed, each table got the version's files in one commit.
    assert applied(ds, "requests") == applied(ds, "impressions") == [1, 2]

    other, again = make_log([2], 500), make_log([1], 100)
    assert replaced.write(other, run_id="other", gate=False).version == 3
    assert [v.run_id for v in replaced.versions()] == ["first", "second", "other"]
    same_rows(replaced.logs(1), first.frame)
    same_rows(replaced.logs(2), again.frame)
    same_rows(replaced.logs(), again.frame.unionByName(other.frame))
    assert replaced.write(again, run_id="second", mode="replace", gate=False).already_published
    assert applied(replaced, "requests") == applied(replaced, "impressions") == [1, 2, 3]


CONVERSIONS = [
    # Source, target, where the process dies, parts that are there then, parts found done.
    ("delta", "delta", "publish:after-claim", 0, 1),
    ("iceberg", "delta", "convert:part-1", 2, 2),
    ("delta", "iceberg", "convert:part-0", 1, 1),
]


def test_kill_9_in_a_conversion(spark: SparkSession, settings: Settings, name: str, make_log: MakeLog) -> None:
    """Flat to split on Delta, and with that from either format to the other: gone on with, everything is there once."""
    lakes = {f: settings.model_copy(update={"format": f}) for f in ("iceberg", "delta")}
    raw = make_log([1, 2, 3])
    sources, jobs = [], []
    for number, (source, target, point, _, _) in enumerate(CONVERSIONS):
        ds = Dataset.create(spark, lakes[source], f"{name}_{number}", raw.schema, raw, layout=Layout.FLAT)
        ds.write(raw, gate=False)
        job = ("convert_process", "--dataset", ds.name, "--target", f"{ds.name}_b", "--format", target)
        jobs.append(start(lakes[source], *job, fault=point))
        sources.append(ds)
    for ds, job, (_, target, _, there, done) in zip(sources, jobs, CONVERSIONS, strict=True):
        killed(job)
        half = Dataset.open(spark, lakes[target], f"{ds.name}_b")
        assert half.metadata().current == there
        summary = ds.convert(half.name, format=target, layout=Layout.SPLIT, run_id="turn")
        assert (summary.already_done, summary.requests, summary.impressions, len(summary.parts)) == (done, 15, 45, 3)
        turned = Dataset.open(spark, lakes[target], half.name)
        assert turned.spec.layout is Layout.SPLIT
        same_rows(turned.logs(), raw.frame)
        same_rows(ds.logs(), raw.frame)
        assert all(not v.pins for v in ds.versions())
