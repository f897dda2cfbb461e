"""Five processes backfill the same few segments for some rounds: each run is published or refused by name, and what is
stored in the end is what the published ones give one after the other."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.dataset.facade import Dataset
from dedup_storage.sources.raw import RawLog
from tests.integration.backfiller import MODULUS, value
from tests.integration.processes import start
from tests.spark.helpers import flat_rows, flat_schema, frame, multiset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WRITERS = 5


@pytest.mark.parametrize(
    ("table_format", "count"),
    # On Delta most of the time is starting processes.
    [("iceberg", 3), pytest.param("iceberg", 10, marks=pytest.mark.exhaustive), ("delta", 1)],
)
def test_the_result_is_some_serial_order(
    spark: SparkSession, settings: Settings, name: str, table_format: str, count: int
) -> None:
    settings = settings.model_copy(update={"format": table_format})
    rows = flat_rows([1], users=WRITERS + 1)
    raw = RawLog.from_frame(frame(spark, rows), flat_schema())
    ds = Dataset.create(spark, settings, name, raw.schema, raw)
    ds.write(raw, run_id="first", gate=False)
    processes = [
        start(settings, "backfiller", "--dataset", name, "--number", str(n), "--rounds", str(count), memory="700m")
        for n in range(WRITERS)
    ]
    outcomes: dict[str, str] = {}
    for process in processes:
        output, _ = process.communicate(timeout=800)
        assert process.returncode == 0, output[-3000:]
        ran = [line.split()[1:] for line in output.splitlines() if line.startswith("RAN ")]
        outcomes |= dict(ran)
    assert set(outcomes) == {f"b{n}-{turn}" for n in range(WRITERS) for turn in range(count)}

    published = {run: int(version) for run, version in outcomes.items() if version != "ConflictError"}
    versions = {v.run_id: v.version for v in ds.versions()}
    assert versions == {"first": 1, **published}
    assert sorted(versions.values()) == list(range(1, len(published) + 2))
    # Some run wins every race, so no more than all but one of a round can be refused.
    assert len(published) >= count

    labels = {(*row[:2], row[5]): row[6] for row in rows}
    for run in sorted(published, key=published.__getitem__):
        number, turn = map(int, run.removeprefix("b").split("-"))
        for key, label in labels.items():
            if key[0] in (number, number + 1):
                labels[key] = (label * 2 + value(number, turn)) % MODULUS
    expected = [(*row[:6], labels[(*row[:2], row[5])]) for row in rows]
    assert multiset(ds.logs()) == multiset(frame(spark, expected))
    assert [branch for table in ds.metadata().tables for branch in ds.tables.branches(name, table)] == []
