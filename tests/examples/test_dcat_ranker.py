"""The DCAT ranker: trained deduplicated, expanded, and by two ranks, it is one model. No Spark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from dedup_storage.config import Settings
from dedup_storage.reader import DedupBatch, DedupDataset
from examples._data import Columns, open_dataset
from examples._dcat import DcatRanker, Inputs, area_under_curve
from examples.dcat_ranker import Run, _score, train
from tests.reader.lake import Lake, make_log

ROOT = Path(__file__).resolve().parents[2]
LENGTH = 5


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    found = Settings(warehouse=str(tmp_path_factory.mktemp("dcat") / "warehouse"))
    Lake(found).write("dcat", make_log(users=24, requests_per_user=3, candidates=5), buckets=4)
    return found


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def opened(settings: Settings, buckets: list[int], **options: Any) -> tuple[DedupDataset, Columns]:
    return open_dataset(
        "dcat", settings, history=None, label=None, threshold=0, batch_size=30, filters={"buckets": buckets}, **options
    )


def held_out(settings: Settings) -> list[DedupBatch]:
    return list(opened(settings, [3], shuffle=False)[0])


def model() -> DcatRanker:
    torch.manual_seed(0)
    return DcatRanker(8, 2, LENGTH)


@pytest.mark.usefixtures("double")
def test_losses_and_areas_are_those_of_the_expanded_model(settings: Settings) -> None:
    runs: list[Run] = []
    for expanded in (False, True):
        batches, columns = opened(settings, [0, 1, 2])
        runs.append(
            train(model(), batches, held_out(settings), columns, length=LENGTH, epochs=2, steps=3, expanded=expanded)
        )
    ours, theirs = runs
    assert len(set(ours.losses)) == 6
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-9, atol=1e-11)
    assert ours.areas == theirs.areas
    assert sum(ours.step_bytes) < sum(theirs.step_bytes)
    scoring = _score(ours.model, held_out(settings), columns, LENGTH)  # type: ignore[arg-type]
    assert scoring["score_difference"] < 1e-10
    assert scoring["score_bytes"] < scoring["expanded_score_bytes"]


def test_area_under_the_curve_equals_the_pairs() -> None:
    scores = torch.randint(0, 6, (40,), generator=torch.Generator().manual_seed(0)).float()
    labels = (torch.arange(40) % 3 == 0).float()
    pairs = [
        (scores[i] > scores[j]).item() + 0.5 * (scores[i] == scores[j]).item()
        for i in range(40) for j in range(40) if labels[i] and not labels[j]
    ]  # fmt: skip
    assert area_under_curve(scores, labels) == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_two_ranks_train_as_one_process_with_their_batches_together(settings: Settings, tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "examples" / "dcat_ranker.py"), "--dataset", "dcat", "--double", "--json", str(summary)]
    command += ["--batch-size", "30", "--width", "8", "--length", str(LENGTH), "--steps", "3"]
    environment = {**os.environ, "DEDUP_STORAGE_WAREHOUSE": settings.warehouse, "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone, columns = opened(settings, [0, 1, 2])
    trained, losses = model(), []
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9)
    iterator = iter(alone)
    for _ in range(3):
        inputs = Inputs.join([Inputs.of(batch, columns, LENGTH) for batch in islice(iterator, 2)])
        optimizer.zero_grad(set_to_none=True)
        loss = trained.loss(inputs)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    found = json.loads(summary.read_text())
    torch.testing.assert_close(found["losses"], losses, rtol=1e-9, atol=1e-11)
    trained.eval()
    given = [Inputs.of(batch, columns, LENGTH) for batch in held_out(settings)]
    scores = torch.cat([trained(inputs) for inputs in given[:3]])
    assert found["areas"] == [area_under_curve(scores, torch.cat([inputs.labels for inputs in given[:3]]))]
