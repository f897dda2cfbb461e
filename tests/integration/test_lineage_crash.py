"""A write that is killed when its version is there and it has not said so: it is told of once, with its tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import LineageSettings, Settings
from tests.integration.crash_jobs import JOBS
from tests.integration.processes import kill
from tests.receiver import Receiver

# Of runs that are killed, tests/unit/test_lineage.py shows the same without a dataset.
pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.crash, pytest.mark.timeout(900)]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    pytest.importorskip("openlineage.client", reason="openlineage-python is not installed (extra lineage)")
    with Receiver() as running:
        yield running


def test_a_killed_write_is_told_once(
    spark: SparkSession, settings: Settings, receiver: Receiver, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = JOBS["append"].prepare(spark, settings, name)
    for key, value in receiver.transport.items():
        monkeypatch.setenv(f"DEDUP_STORAGE_LINEAGE__TRANSPORT__{key.upper()}", value)
    kill(ds, "append", "publish:after-tag-requests")
    assert receiver.states() == ["START"]

    told = settings.model_copy(update={"lineage": LineageSettings(transport=receiver.transport)})
    done = JOBS["append"].act(type(ds).open(spark, told, name))
    assert done.already_published
    assert receiver.states() == ["START", "RUNNING", "COMPLETE"]
    assert len({event["run"]["runId"] for event in receiver.events}) == 1
    outputs = receiver.events[-1]["outputs"]
    assert {Path(o["name"]).name: o["facets"]["version"]["datasetVersion"] for o in outputs} == {
        "requests": "2",
        "impressions": "2",
    }
