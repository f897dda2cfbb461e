"""What the gate leaves behind: a verdict and pages without a row's value, the session as it was."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from dedup_storage.config import Settings
from dedup_storage.errors import QualityGateError, StorageError, UsageError
from dedup_storage.layout import Layout
from dedup_storage.quality import GateFacts, require, run_gate
from dedup_storage.quality import gate as gate_module
from tests.spark.gating import FLAT_DDL, USERS, Gate, frame, spec_of


@pytest.fixture
def gate(spark: SparkSession, tmp_path: Path) -> Gate:
    """A gate of its own for each test."""
    return Gate(spark, tmp_path)


def test_a_refusal_leaves_a_verdict_and_pages_without_any_value_of_a_row(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.requests.append(gate.requests[0])
    gate.impressions[5] |= {"y": 48151623, "user_id": USERS[0]}
    caplog.set_level(logging.DEBUG)
    verdict = gate.split()
    with pytest.raises(QualityGateError, match=r"impression\.y\.allowed") as caught:
        require(verdict)
    place = gate.docs / "gated" / "run-1"
    saved = json.loads((place / "verdict.json").read_text())
    assert saved["passed"] is False
    pages = list(place.rglob("*.html"))
    assert (place / "index.html") in pages
    assert len(list((place / "validations").rglob("*.html"))) == 3
    told = [str(caught.value), caplog.text, json.dumps(saved), *(p.read_text(encoding="utf-8") for p in pages)]
    for secret in (*USERS, "48151623"):
        assert not any(secret in text for text in told)


def test_running_again_replaces_the_pages(gate: Gate) -> None:
    gate.split()
    gate.split()
    pages = list((gate.docs / "gated" / "run-1" / "validations").rglob("*.html"))
    assert len(pages) == 3


@pytest.mark.parametrize("layout", list(Layout))
def test_lists_never_reach_great_expectations(gate: Gate, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[str]] = {}
    inner = gate_module.evaluate

    def spy(batches: Any, **options: Any) -> Any:
        seen.update({b.name: [str(t) for _, t in b.frame.dtypes] for b in batches if b.name != "dataset"})
        return inner(batches, **options)

    monkeypatch.setattr(gate_module, "evaluate", spy)
    assert (gate.split() if layout is Layout.SPLIT else gate.flat()).passed
    assert set(seen) == {"requests", "impressions"}
    assert not any("array" in kind or "struct" in kind for kinds in seen.values() for kind in kinds)


def test_the_session_is_left_as_it_was(gate: Gate, spark: SparkSession) -> None:
    before = dict(spark.conf.getAll)
    cached = spark.sparkContext._jsc.getPersistentRDDs().size()
    gate.split()
    gate.flat()
    assert dict(spark.conf.getAll) == before
    assert spark.sparkContext._jsc.getPersistentRDDs().size() == cached
    assert not spark.sparkContext._jsc.sc().isStopped()


def test_frames_that_do_not_fit_the_layout_are_refused(gate: Gate, spark: SparkSession) -> None:
    with pytest.raises(UsageError, match="requests and impressions"):
        run_gate(
            spec=spec_of(Layout.SPLIT),
            settings=gate.settings,
            run_id="run-1",
            facts=GateFacts(),
            logs=frame(spark, gate.logs(), FLAT_DDL),
        )


def test_a_place_that_cannot_be_written_is_named(gate: Gate) -> None:
    (gate.docs / "file").write_text("")
    gate.settings = Settings.model_validate({"quality": {"docs": str(gate.docs / "file")}})
    with pytest.raises(StorageError, match=r"quality\.docs"):
        gate.split()
